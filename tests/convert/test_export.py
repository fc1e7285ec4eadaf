"""Every exported file against transformers: run by onnxruntime, by llama.cpp where it is installed, or read by hand."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import onnxruntime
import pytest
import torch
from transformers import AutoTokenizer, GPT2LMHeadModel

import tunesmith
from tunesmith.cli import main
from tunesmith.convert.exported_model import read_exported
from tunesmith.convert.verify import Logits, verify
from tunesmith.errors import UserError


def transformers_logits(folder: Path, ids: list[int]) -> np.ndarray:
    with torch.no_grad():
        return GPT2LMHeadModel.from_pretrained(folder).eval()(torch.tensor([ids])).logits[0].numpy()


@pytest.mark.parametrize(
    "switches",
    [
        {},
        {"activation_function": "gelu", "scale_attn_by_inverse_layer_idx": True, "tie_word_embeddings": False},
        {"activation_function": "silu", "scale_attn_weights": False, "n_inner": 48},
        {"activation_function": "relu", "layer_norm_epsilon": 1e-3},
    ],
    ids=["plain", "exact", "silu", "relu"],
)
def test_onnx(make_model_folder: Callable[..., Path], tmp_path: Path, switches: dict[str, Any]) -> None:
    """Onnxruntime gives transformers' logits: whole, token by token with the cache, and padded on the left."""
    model = make_model_folder(**switches)
    result = tunesmith.export(model, format="onnx", out=tmp_path / "out")
    assert result["verified"]["equal_texts"] == result["verified"]["texts"] >= 10
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx", providers=["CPUExecutionProvider"])
    ids = list(range(20, 50))
    expected_SV = transformers_logits(model, ids)
    outputs = [output.name for output in session.get_outputs()]

    def run(tokens: list[list[int]], mask: list[list[int]], past: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0)[:, -len(tokens[0]) :]
        feed = {"input_ids": np.array(tokens), "attention_mask": np.array(mask), "position_ids": positions}
        return dict(zip(outputs, session.run(None, {**feed, **past}), strict=True))

    def cache(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name.replace("present", "past_key_values"): values for name, values in found.items() if "pres" in name}

    empty = {entry.name: np.zeros((1, 4, 0, 8), np.float32) for entry in session.get_inputs()[3:]}
    whole = run([ids], [[1] * 30], empty)
    np.testing.assert_allclose(whole["logits"][0], expected_SV, atol=1e-4)
    past = empty
    for number, token in enumerate(ids):
        found = run([[token]], [[1] * (number + 1)], past)
        past = cache(found)
        np.testing.assert_allclose(found["logits"][0, 0], expected_SV[number], atol=1e-4)
    two = {name: np.zeros((2, 4, 0, 8), np.float32) for name in empty}
    padded = run([ids, [0] * 5 + ids[:25]], [[1] * 30, [0] * 5 + [1] * 25], two)
    np.testing.assert_allclose(padded["logits"][0], expected_SV, atol=1e-4)
    np.testing.assert_allclose(padded["logits"][1, 5:], expected_SV[:25], atol=1e-4)


def gguf_logits(path: Path, ids: list[int]) -> np.ndarray:
    """GPT-2 in numpy from a GGUF file's own words: names, shapes and settings of the specification."""
    reader = gguf.GGUFReader(path)
    w = {t.name: gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float64) for t in reader.tensors}
    heads = int(reader.fields["gpt2.attention.head_count"].contents())
    epsilon = float(reader.fields["gpt2.attention.layer_norm_epsilon"].contents())

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt(x.var(-1, keepdims=True) + epsilon) * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    n = len(ids)
    x = w["token_embd.weight"][ids] + w["position_embd.weight"][:n]
    for layer in range(int(reader.fields["gpt2.block_count"].contents())):
        name = f"blk.{layer}"
        qkv = linear(norm(x, f"{name}.attn_norm"), f"{name}.attn_qkv")
        q, k, v = (part.reshape(n, heads, -1).transpose(1, 0, 2) for part in np.split(qkv, 3, axis=-1))
        scores = q @ k.transpose(0, 2, 1) / np.sqrt(q.shape[-1]) + np.triu(np.full((n, n), -np.inf), 1)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = (weights / weights.sum(-1, keepdims=True)) @ v
        x = x + linear(mixed.transpose(1, 0, 2).reshape(n, -1), f"{name}.attn_output")
        wide = linear(norm(x, f"{name}.ffn_norm"), f"{name}.ffn_up")
        wide = 0.5 * wide * (1 + np.tanh(np.sqrt(2 / np.pi) * (wide + 0.044715 * wide**3)))
        x = x + linear(wide, f"{name}.ffn_down")
    return norm(x, "output_norm") @ w.get("output.weight", w["token_embd.weight"]).T


@pytest.mark.parametrize(("dtype", "tolerance"), [("f32", 1e-4), ("f16", 0.02), ("q8_0", 0.3)])
def test_gguf_by_hand(make_model_folder: Callable[..., Path], tmp_path: Path, dtype: str, tolerance: float) -> None:
    """The file read by the gguf library and computed in numpy: transformers' logits, and the model's own tokenizer."""
    model = make_model_folder("my model", tie_word_embeddings=dtype != "f32")
    tunesmith.export(model, format="gguf", dtype=dtype, out=tmp_path / "out")
    path = tmp_path / "out" / f"my model-{dtype}.gguf"
    ids = list(range(10, 60))
    assert np.abs(gguf_logits(path, ids) - transformers_logits(model, ids)).max() < tolerance
    fields = gguf.GGUFReader(path).fields
    content = json.loads((model / "tokenizer.json").read_text("utf-8"))
    assert fields["tokenizer.ggml.tokens"].contents() == sorted(
        content["model"]["vocab"], key=content["model"]["vocab"].get
    )
    assert fields["tokenizer.ggml.merges"].contents() == [" ".join(merge) for merge in content["model"]["merges"]]
    assert fields["tokenizer.ggml.eos_token_id"].contents() == 0
    assert fields["tokenizer.ggml.add_bos_token"].contents() is True
    assert fields["tokenizer.ggml.token_type"].contents()[:2] == [3, 1]
    modelfile = (tmp_path / "out" / "Modelfile").read_text("utf-8")
    assert modelfile.startswith(f"FROM ./my model-{dtype}.gguf\n")
    assert "PARAMETER num_ctx 64\n" in modelfile


def test_gguf_in_llama_cpp(tmp_path: Path) -> None:
    """llama.cpp makes the same ids, logits and greedy texts of twenty prompts, Japanese and emoji among them."""
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is compiled on the spot; not everybody has it")
    found = tunesmith.export("tiny", format="gguf", out=tmp_path / "out")["verified"]
    assert found["by"].startswith("llama-cpp-python")
    assert (found["texts"], found["equal_texts"]) == (20, 20)


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_half_precision(make_model_folder: Callable[..., Path], tmp_path: Path, dtype: str) -> None:
    """A folder that transformers loads in that type, each weight rounded once."""
    model = make_model_folder()
    assert (
        main(["export", str(model), "--format", "safetensors", "--dtype", dtype, "--out", str(tmp_path / "out")]) == 0
    )
    found = GPT2LMHeadModel.from_pretrained(tmp_path / "out")
    wanted = torch.float16 if dtype == "f16" else torch.bfloat16
    expected = GPT2LMHeadModel.from_pretrained(model).to(wanted).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.state_dict().items())
    assert AutoTokenizer.from_pretrained(tmp_path / "out").eos_token_id == 0


def test_nanogpt(make_model_folder: Callable[..., Path], tmp_path: Path) -> None:
    """The checkpoint holds what nanoGPT's `sample.py` and `train.py` read; with exact GELU it computes the same."""
    model = make_model_folder(activation_function="gelu")
    result = tunesmith.export(model, format="nanogpt", out=tmp_path / "out")
    assert result["largest_logit_difference"] < 1e-4
    checkpoint = torch.load(tmp_path / "out" / "ckpt.pt", weights_only=True)
    arguments = {"n_layer": 2, "n_head": 4, "n_embd": 32, "block_size": 64, "bias": True, "vocab_size": 300}
    assert checkpoint["model_args"] == {**arguments, "dropout": 0.0}
    expected = GPT2LMHeadModel.from_pretrained(model).state_dict()
    assert set(checkpoint["model"]) == set(expected)
    for name, tensor in checkpoint["model"].items():
        is_conv1d = tensor.ndim == 2 and ".h." in name
        assert torch.equal(tensor.t() if is_conv1d else tensor, expected[name])
    assert checkpoint["model"]["lm_head.weight"].data_ptr() == checkpoint["model"]["transformer.wte.weight"].data_ptr()
    matrices = [
        torch.nn.Parameter(tensor) for name, tensor in expected.items() if tensor.ndim == 2 and "head" not in name
    ]
    vectors = [torch.nn.Parameter(tensor) for tensor in expected.values() if tensor.ndim == 1]
    torch.optim.AdamW([{"params": matrices}, {"params": vectors}]).load_state_dict(checkpoint["optimizer"])


def test_what_cannot_be(make_model_folder: Callable[..., Path], tmp_path: Path) -> None:
    """Arithmetic that another program does not have, types that a form does not have, numbers that do not fit."""
    out = tmp_path / "out"
    exact = make_model_folder("exact", activation_function="gelu")
    with pytest.raises(UserError, match="activation_function=gelu"):
        tunesmith.export(exact, format="gguf", out=out)
    wide = make_model_folder("wide", n_inner=64)
    with pytest.raises(UserError, match="nanoGPT knows only"):
        tunesmith.export(wide, format="nanogpt", out=out)
    with pytest.raises(UserError, match=r"^format onnx has no dtype q8_0"):
        tunesmith.export(wide, format="onnx", dtype="q8_0", out=out)
    large = make_model_folder("large")
    model = GPT2LMHeadModel.from_pretrained(large)
    with torch.no_grad():
        model.transformer.wpe.weight[0, 0] = 1e5
    model.save_pretrained(large)
    with pytest.raises(UserError, match=r"wpe.weight contains 1e\+05, which is more than f16 can represent"):
        tunesmith.export(large, format="safetensors", dtype="f16", out=out)
    assert not out.exists()
    with pytest.raises(UserError, match="already there"):
        tunesmith.export("tiny", format="safetensors", out=exact)


class Other:
    """A runtime that computes something else, or reads other ids."""

    name = "other"

    def __init__(self, logits: Callable[[list[int]], Logits], ids: list[int] | None) -> None:
        self.logits, self.ids = logits, ids

    def encode(self, text: str) -> list[int] | None:
        del text
        return self.ids

    def read(self, tokens: list[int]) -> Logits:
        return self.logits(tokens)

    def go_on(self, token: int) -> Logits:
        return self.logits([token])[-1]


def test_verification_can_fail(make_model_folder: Callable[..., Path]) -> None:
    """Other logits and other ids are errors."""
    exported = read_exported(tunesmith.config.ExportConfig(str(make_model_folder()), out="", format="onnx"))

    def zeros(tokens: list[int]) -> Logits:
        return np.zeros((len(tokens), 300), np.float32)

    with pytest.raises(UserError, match="other computes something else"):
        verify(exported, Other(zeros, None), largest_difference=1e-3)
    with pytest.raises(UserError, match="reads '' as other tokens"):
        verify(exported, Other(zeros, [1]), largest_difference=1e-3)


def test_a_fine_tuned_adapter_goes_everywhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run with adapters is merged and written as ONNX in one command, and says so."""
    (tmp_path / "text.txt").write_text("\n".join(f"the lamp burns for {n} nights" for n in range(40)), "utf-8")
    run = tmp_path / "run"
    options = {"model": "tiny", "lora_r": 2, "max_steps": 2, "learning_rate": 0.01}
    tunesmith.train(tmp_path / "text.txt", out=run, **options)
    assert main(["export", str(run), "--merge", "--format", "onnx", "--out", str(tmp_path / "out"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["adapter"] == str(run / "adapter")
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx", providers=["CPUExecutionProvider"])
    feed = {"input_ids": [[0, 5, 9]], "attention_mask": [[1, 1, 1]], "position_ids": [[0, 1, 2]]}
    past = {entry.name: np.zeros((1, 4, 0, 32), np.float32) for entry in session.get_inputs()[3:]}
    found = session.run(["logits"], {**{name: np.array(values) for name, values in feed.items()}, **past})[0][0]
    np.testing.assert_allclose(found, transformers_logits(run, [0, 5, 9]), atol=1e-3)


def test_a_base_without_merging(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--base without --merge is a usage error with a hint, before anything is read or written."""
    out = tmp_path / "out"
    assert main(["export", "tiny", "--format", "gguf", "--base", "gpt2", "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert "--base is the model of an adapter and has no effect without --merge" in said
    assert "hint: add --merge to merge the adapter into gpt2" in said
    assert not out.exists()
