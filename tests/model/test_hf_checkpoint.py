"""Checkpoints of every age in, one kind out, and nothing that is not understood."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import GPT2LMHeadModel

from tunesmith.errors import UserError
from tunesmith.model.hf_checkpoint import init_gpt2, load_gpt2, save_gpt2, to_hf_state_dict

MakeFolder = Callable[..., Path]


def stored(folder: Path) -> dict[str, Tensor]:
    """The folder's tensors as transformers saved them."""
    return load_file(folder / "model.safetensors")


def replace_weights(folder: Path, state: dict[str, Tensor], file_name: str) -> None:
    """Put other weights into a folder."""
    (folder / "model.safetensors").unlink()
    if file_name.endswith(".bin"):
        torch.save(state, folder / file_name)
    else:
        save_file(state, folder / file_name)


def assert_same_weights(folder: Path, expected: dict[str, Tensor]) -> None:
    """What loads is bitwise what was stored."""
    state = to_hf_state_dict(load_gpt2(folder))
    assert set(state) == set(expected)
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())


def test_old_pickled_checkpoint(make_model_folder: MakeFolder) -> None:
    """An old pytorch_model.bin with masks and a repeated head loads through weights_only."""
    folder = make_model_folder()
    expected = stored(folder)
    mask = torch.ones(1, 1, 64, 64, dtype=torch.bool).tril()
    old = {
        **expected,
        "transformer.h.0.attn.bias": mask,
        "transformer.h.0.attn.masked_bias": torch.tensor(-1e4),
        "lm_head.weight": expected["transformer.wte.weight"],
    }
    replace_weights(folder, old, "pytorch_model.bin")
    assert_same_weights(folder, expected)


@pytest.mark.parametrize("file_name", ["pytorch_model.bin", "model.safetensors"])
def test_names_without_prefix(file_name: str, make_model_folder: MakeFolder) -> None:
    """OpenAI's own upload has no `transformer.` in its names."""
    folder = make_model_folder()
    expected = stored(folder)
    bare = {name.removeprefix("transformer."): tensor for name, tensor in expected.items()}
    replace_weights(folder, bare, file_name)
    assert_same_weights(folder, expected)


def test_sharded_safetensors(make_model_folder: MakeFolder) -> None:
    """Shards that transformers wrote are read through their index."""
    folder = make_model_folder()
    expected = stored(folder)
    GPT2LMHeadModel.from_pretrained(folder).save_pretrained(folder, max_shard_size="20KB")
    (folder / "model.safetensors").unlink()
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    assert_same_weights(folder, expected)


def test_sharded_pickles(make_model_folder: MakeFolder) -> None:
    """Old shards are read through their index too."""
    folder = make_model_folder()
    expected = stored(folder)
    names = sorted(expected)
    halves = {"a.bin": names[::2], "b.bin": names[1::2]}
    for file_name, part in halves.items():
        torch.save({name: expected[name] for name in part}, folder / file_name)
    weight_map = {name: file_name for file_name, part in halves.items() for name in part}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}), encoding="utf-8")
    (folder / "model.safetensors").unlink()
    assert_same_weights(folder, expected)


def test_half_precision_is_kept_exactly(make_model_folder: MakeFolder, tmp_path: Path) -> None:
    """bf16 weights come in as fp32 and go out as bf16 without changing a bit."""
    folder = make_model_folder()
    rounded = {name: tensor.bfloat16() for name, tensor in stored(folder).items()}
    replace_weights(folder, rounded, "model.safetensors")
    copy = tmp_path / "copy"
    copy.mkdir()
    save_gpt2(load_gpt2(folder), copy, hf_config=json.loads((folder / "config.json").read_text()), dtype=torch.bfloat16)
    written = stored(copy)
    assert all(torch.equal(written[name], tensor) for name, tensor in rounded.items())
    assert json.loads((copy / "config.json").read_text())["dtype"] == "bfloat16"


def test_padding_never_reaches_a_file(make_model_folder: MakeFolder, tmp_path: Path) -> None:
    """A vocabulary of 300 is 384 rows in memory and 300 on disk, the rest zero."""
    model = load_gpt2(make_model_folder())
    assert model.head_VC.shape[0] == 384
    assert not model.head_VC[300:].any()
    copy = tmp_path / "copy"
    copy.mkdir()
    save_gpt2(model, copy, hf_config={"vocab_size": 300})
    assert stored(copy)["transformer.wte.weight"].shape[0] == 300


class Payload:
    """A pickle that would leave a trace if it were executed."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.trace,)


def test_pickled_code_does_not_run(make_model_folder: MakeFolder, tmp_path: Path) -> None:
    """A checkpoint that carries code is refused, and the code is not executed."""
    folder = make_model_folder()
    trace = tmp_path / "executed"
    replace_weights(folder, {**stored(folder), "payload": Payload(trace)}, "pytorch_model.bin")
    with pytest.raises(UserError, match="cannot be read"):
        load_gpt2(folder)
    assert not trace.exists()


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "sub/x.safetensors", "notes.txt", 7])
def test_index_may_not_point_outside(name: object, make_model_folder: MakeFolder) -> None:
    """An index that names anything but a weight file beside it is refused."""
    folder = make_model_folder()
    (folder / "model.safetensors").rename(folder / "x.safetensors")
    index = {"weight_map": {"transformer.wte.weight": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(UserError, match=r"which is not in its folder|is not a valid weight index"):
        load_gpt2(folder)


def drop(state: dict[str, Tensor]) -> None:
    del state["transformer.ln_f.bias"]


def add(state: dict[str, Tensor]) -> None:
    state["transformer.h.0.crossattention.c_attn.weight"] = torch.zeros(2)


def reshape(state: dict[str, Tensor]) -> None:
    state["transformer.wpe.weight"] = torch.zeros(63, 32)


def integers(state: dict[str, Tensor]) -> None:
    state["transformer.wpe.weight"] = torch.zeros(64, 32, dtype=torch.int64)


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (drop, "lacks 1 of 28 tensors, the first 'transformer.ln_f.bias'"),
        (add, "'transformer.h.0.crossattention.c_attn.weight'"),
        (reshape, r"transformer.wpe.weight is torch.float32 \[63, 32\], but config.json asks for \[64, 32\]"),
        (integers, "transformer.wpe.weight is torch.int64"),
    ],
)
def test_what_does_not_fit_is_named(
    damage: Callable[[dict[str, Tensor]], None], named: str, make_model_folder: MakeFolder
) -> None:
    """Missing, unknown and misshapen tensors are refused by name."""
    folder = make_model_folder()
    state = stored(folder)
    damage(state)
    replace_weights(folder, state, "model.safetensors")
    with pytest.raises(UserError, match=named):
        load_gpt2(folder)


def test_truncated_file_is_named(make_model_folder: MakeFolder) -> None:
    """Half a download is refused."""
    folder = make_model_folder()
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UserError, match=r"model.safetensors cannot be read"):
        load_gpt2(folder)


def test_folder_without_weights(make_model_folder: MakeFolder) -> None:
    """A configuration alone is no model, and the way to start afresh is named."""
    folder = make_model_folder()
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="no weights") as error:
        load_gpt2(folder)
    assert "--from-scratch" in error.value.hint


def test_fresh_weights_are_spread_as_gpt2s(make_model_folder: MakeFolder) -> None:
    """Normal with std 0.02, residual projections smaller by sqrt(2 L), norms 1, biases 0; the seed decides."""
    folder = make_model_folder(n_embd=128, n_layer=8)
    model = init_gpt2(folder, dropout=0.0, seed=1)
    state = {name: parameter.detach() for name, parameter in model.named_parameters()}
    assert float(state["transformer.h.3.mlp.c_fc.weight"].std()) == pytest.approx(0.02, rel=0.05)
    assert float(state["transformer.wte.weight"][:300].std()) == pytest.approx(0.02, rel=0.05)
    assert float(state["transformer.h.3.mlp.c_proj.weight"].std()) == pytest.approx(0.02 / 4, rel=0.05)
    assert (state["transformer.ln_f.weight"] == 1).all()
    assert not state["transformer.h.0.attn.c_attn.bias"].any()
    again = init_gpt2(folder, dropout=0.0, seed=1)
    other = init_gpt2(folder, dropout=0.0, seed=2)
    assert torch.equal(again.head_VC, model.head_VC)
    assert not torch.equal(other.head_VC, model.head_VC)
