"""`train --from-scratch`: a shape and a tokenizer of one's own, Muon, and what to expect."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import GPT2LMHeadModel

import tunesmith
from tunesmith.cli import main
from tunesmith.errors import UserError
from tunesmith.model.gpt2 import GPT2
from tunesmith.model.gpt2_config import GPT2Config
from tunesmith.planning.scaling_law import ScalingEstimate, time_limit_warning
from tunesmith.tokenization.train_tokenizer import resolve_vocab_size
from tunesmith.training.optimizer import make_optimizer

SHAPE = {"from_scratch": True, "n_layer": 2, "n_embd": 64, "context_length": 64, "split_on": "line"}


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """Sixty lines in two scripts."""
    path = tmp_path / "log.txt"
    lines = [f"Night {number}: the lamp burns, 灯が点いている。" for number in range(60)]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_shape_and_tokenizer_are_made_on_the_way(text: Path, tmp_path: Path) -> None:
    """An ordinary model folder with the shape asked for, its tokenizer the one that `tokenizer train` makes."""
    result = tunesmith.train(text, out=tmp_path / "out", vocab_size=300, max_steps=8, **SHAPE)
    assert result.perplexity is not None
    assert result.perplexity < result.base_perplexity
    config = GPT2LMHeadModel.from_pretrained(tmp_path / "out").config
    assert (config.n_layer, config.n_embd, config.n_head, config.n_positions, config.vocab_size) == (2, 64, 1, 64, 300)
    tunesmith.train_tokenizer(text, out=tmp_path / "alone", vocab_size=300, split_on="line")
    files = [tmp_path / name / "tokenizer.json" for name in ("out", "alone")]
    assert Tokenizer.from_file(str(files[0])).to_str() == Tokenizer.from_file(str(files[1])).to_str()
    run = json.loads((tmp_path / "out" / "run.json").read_text("utf-8"))
    plan = run["plan"]
    assert (plan["optimizer"], plan["adam_beta2"], plan["weight_decay"], plan["learning_rate"]) == (
        "muon",
        0.95,
        0.1,
        5e-3,
    )
    assert "in the shape of gpt2-2x64" in (tmp_path / "out" / "README.md").read_text("utf-8")
    assert tunesmith.generate(tmp_path / "out", max_new_tokens=4)[0].tokens


def test_a_tokenizer_can_be_named(
    text: Path, tmp_path: Path, make_model_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Any model's or folder's; of its weights nothing is read, and the screen shows the shape's name."""
    folder = make_model_folder()
    (folder / "model.safetensors").unlink()
    command = ["train", str(text), "--from-scratch", "--n-layer", "1", "--n-embd", "32", "--context-length", "32"]
    command += ["--max-steps", "2", "--tokenizer", str(folder), "--optimizer", "adamw", "--out", str(tmp_path / "out")]
    assert main(command) == 0
    shown = "".join(capsys.readouterr())
    assert "gpt2-1x32" in shown
    assert "tokens for each of" in shown.replace("\n", " ")
    assert "are too few for" in shown
    assert "--base" not in shown
    assert json.loads((tmp_path / "out" / "config.json").read_text())["vocab_size"] == 300


def test_a_run_with_muon_resumes_exactly(text: Path, tmp_path: Path) -> None:
    """Broken off and resumed it ends in the weights of the unbroken run, bit for bit, dropout on."""
    options = {**SHAPE, "vocab_size": 300, "max_steps": 8, "tokens_per_step": 256, "dropout": 0.1}
    tunesmith.train(text, out=tmp_path / "whole", **options)
    verified = []

    def keep(event: object) -> None:
        if type(event).__name__ == "ResumeVerified":
            verified.append(event)

    tunesmith.train(text, out=tmp_path / "verified", verify_resume=True, on_event=keep, **options)
    assert [event.differing for event in verified] == [{}]
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("whole", "verified")]
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())


def test_two_optimizers_move_what_is_theirs() -> None:
    """Matrices of blocks move as torch's Muon moves them alone, everything else as torch's AdamW."""
    config = GPT2Config(128, 8, 32, 2, 2, 128)
    models = [GPT2(config) for _ in range(2)]
    for model in models:
        model.initialize(torch.Generator().manual_seed(0))
    ours = make_optimizer(models[0], weight_decay=0.1, beta2=0.95, muon=True)
    named = dict(models[1].named_parameters())
    matrices = {name for name, tensor in named.items() if name.startswith("transformer.h.") and tensor.ndim == 2}
    assert len(matrices) == 2 * 4
    muon = torch.optim.Muon(
        [named[name] for name in matrices], lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"
    )
    rest = {name: tensor for name, tensor in named.items() if name not in matrices}
    groups = [
        {"params": [tensor for tensor in rest.values() if tensor.ndim == 2], "weight_decay": 0.1},
        {"params": [tensor for tensor in rest.values() if tensor.ndim == 1], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.95))
    for step in range(3):
        for model in models:
            generator = torch.Generator().manual_seed(step)
            for parameter in model.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=generator)
        for group in ours.param_groups:
            group["lr"] = 0.01
        for optimizer in (ours, muon, adamw):
            optimizer.step()
    for name, parameter in models[0].named_parameters():
        torch.testing.assert_close(parameter, named[name], rtol=1e-5, atol=1e-6)


def test_what_to_expect() -> None:
    """The formulas of their papers, at points that the papers name."""
    chinchilla = ScalingEstimate(70_000_000_000, 1_400_000_000_000, 1_400_000_000_000)
    assert chinchilla.tokens_per_parameter == 20
    assert chinchilla.loss == pytest.approx(1.69 + 406.4 / 7e10**0.34 + 410.7 / 1.4e12**0.28)
    four_epochs = ScalingEstimate(10**9, 10**9, 4 * 10**9)
    assert four_epochs.effective_tokens == pytest.approx(1e9 * (1 + 15.4 * (1 - math.exp(-3 / 15.4))))
    assert not chinchilla.warning
    assert "memorize" in ScalingEstimate(124_000_000, 400_000, 1_200_000).warning
    assert "more --epochs" in ScalingEstimate(124_000_000, 400_000_000, 50_000).warning
    assert ScalingEstimate(3_000_000, 400_000, 4_000_000).loss is None
    assert time_limit_warning(3600, 1.0) == time_limit_warning(1e9, None) == ""
    assert "50% of its steps" in time_limit_warning(7200, 1.0)


def test_vocabulary_follows_text_and_script() -> None:
    """More text can teach more entries, and a script of thousands of characters needs them."""
    sizes = [resolve_vocab_size(n_characters, 90).value for n_characters in (10**5, 10**7, 10**8, 10**10)]
    assert sizes == [1024, 4096, 16_384, 32_768]
    assert resolve_vocab_size(400_000, 3000).value == 6272


def test_a_plan_needs_neither_model_nor_network(text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Shape, own tokenizer and prospect are known before anything is fetched; without text full windows are taken."""
    command = ["plan", "--from-scratch", "--size", "gpt2-small", "--device", "cpu", "--json"]
    assert main([*command, str(text)]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert (planned["model"], planned["optimizer"]) == ("gpt2-small", "muon")
    assert "tokens for each of" in planned["reasons"]["prospect"]
    assert any("memorize" in note for note in planned["notes"])
    assert not any("LoRA" in method["method"] for method in planned["methods"] if method["model"] == "gpt2-small")
    assert main(command) == 0


def test_mistakes(text: Path, tmp_path: Path) -> None:
    """Flags that need each other or exclude each other, sizes that cannot be, text that is there once only."""
    for named, options in [
        ("^size needs from_scratch", {"size": "gpt2-small"}),
        ("^vocab_size needs from_scratch", {"vocab_size": 300}),
        ("^size and model exclude", {"from_scratch": True, "size": "gpt2-small", "model": "tiny"}),
        ("^tokenizer and vocab_size exclude", {**SHAPE, "tokenizer": "tiny", "vocab_size": 300}),
        ("^lora_r and from_scratch exclude", {**SHAPE, "lora_r": 4}),
        ("keeps everything in fp32", {"optimizer": "muon", "memory_mode": "8bit"}),
        ("^vocab_size 10 is not a number from 257", {**SHAPE, "vocab_size": 10}),
        ("^n_layer 0 is not a number from 1", {**SHAPE, "n_layer": 0}),
        ("not a multiple of 3 heads", {**SHAPE, "n_head": 3, "vocab_size": 300}),
    ]:
        with pytest.raises(UserError, match=named):
            tunesmith.train(text, out=tmp_path / "out", **options)
    with pytest.raises(UserError, match="can be read once only"):
        tunesmith.train("-", out=tmp_path / "out", **SHAPE)
    assert [path.name for path in tmp_path.iterdir()] == ["log.txt"]


def test_characters_of_a_large_script_stay_whole(tmp_path: Path) -> None:
    """With thousands of characters each one in the text is one token or part of a longer one, however rare."""
    characters = [chr(0x4E00 + 7 * number) for number in range(700)]
    lines = ["".join(characters[start : start + 9]) + "の灯台。" for start in range(0, 700, 7)]
    text = tmp_path / "kanji.txt"
    text.write_text("\n".join(lines), encoding="utf-8")
    tunesmith.train(text, out=tmp_path / "out", max_steps=1, **SHAPE)
    tokenizer = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    for line in lines:
        ids = tokenizer.encode(line).ids
        assert tokenizer.decode(ids) == line
        assert "\ufffd" not in "".join(tokenizer.decode([token_id]) for token_id in ids)
    assert all(len(tokenizer.encode(character).ids) == 1 for character in characters)
    assert tokenizer.decode(tokenizer.encode("é🔥").ids) == "é🔥"
