"""The main job on a small model: what is left behind, and that it is true."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from torch import float32
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, pipeline

import tunesmith
from tunesmith.training.events import CheckpointSaved, Evaluated, Event

LINES = [f"Night {number}. Wind {number % 7}, lamp steady." for number in range(60)]
FILES = {
    "config.json",
    "model.safetensors",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "README.md",
    "run.json",
    "metrics.jsonl",
    "samples.jsonl",
    "report.html",
    "checkpoints",
}


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """Sixty samples."""
    path = tmp_path / "log.txt"
    path.write_text("\n".join(LINES) + "\n", encoding="utf-8")
    return path


def read_lines(path: Path) -> list[dict[str, object]]:
    """A JSON-lines file."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_the_run_folder(make_model_folder: Callable[..., Path], text: Path, tmp_path: Path) -> None:
    """Exactly the promised files, which transformers loads offline and pipeline writes with."""
    out = tmp_path / "out"
    result = tunesmith.train(text, model=make_model_folder(), out=out, epochs=20, max_steps=10)
    assert {path.name for path in out.iterdir()} == FILES
    assert result.perplexity is not None
    assert result.perplexity < result.base_perplexity
    model = AutoModelForCausalLM.from_pretrained(out)
    assert model.dtype == float32
    assert model.config.architectures == ["GPT2LMHeadModel"]
    written = pipeline("text-generation", model=str(out))("Night", max_new_tokens=5)
    assert written[0]["generated_text"].startswith("Night")

    run = json.loads((out / "run.json").read_text("utf-8"))
    assert run["config"]["model"] == str(tmp_path / "model")
    assert run["plan"]["steps"] == 10
    assert run["plan"]["reasons"]["steps"] == "--max-steps"
    assert run["environment"]["torch"]
    assert run["data"]["samples"] == len(LINES)
    assert run["result"]["status"] == "finished"
    assert run["result"]["perplexity"] == result.perplexity
    metrics = read_lines(out / "metrics.jsonl")
    steps = [line for line in metrics if line["kind"] == "step"]
    assert [line["step"] for line in steps] == list(range(1, 11))
    assert {"train_loss", "tokens_per_s", "peak_memory_bytes", "learning_rate"} <= set(steps[0])
    samples = read_lines(out / "samples.jsonl")
    assert result.best_step == 10
    assert [line["step"] for line in samples] == [0] * 3 + [5] * 3 + [10] * 3  # at every evaluation
    assert [line["seed"] for line in samples] == [42, 43, 44] * 3
    assert [line["is_final"] for line in samples] == [False] * 6 + [True] * 3
    card = (out / "README.md").read_text("utf-8")
    assert f"| model before training | {result.base_perplexity:.2f} |" in card
    assert f"**{result.perplexity:.2f}**" in card
    assert str(tmp_path) not in card


def test_the_best_model_is_kept(make_model_folder: Callable[..., Path], text: Path, tmp_path: Path) -> None:
    """When training goes wrong after a good start, the folder holds the good start, and says so."""
    evaluations: list[Evaluated] = []

    def collect(event: Event) -> None:
        if isinstance(event, Evaluated):
            evaluations.append(event)

    result = tunesmith.train(
        text, model=make_model_folder(), out=tmp_path / "out", epochs=50, max_steps=24, eval_steps=2,
        learning_rate=0.9, warmup_ratio=0.9, max_grad_norm=1e9, precision="fp32", on_event=collect,
        val_fraction=0.3,
    )  # fmt: skip
    tuned = {event.step: event.val_perplexity for event in evaluations if event.step}
    assert result.best_step == min(tuned, key=tuned.__getitem__) < 24
    assert result.perplexity == min(tuned.values()) < tuned[24]
    assert [event.is_best for event in evaluations if event.step] == [
        tuned[step] < min((tuned[other] for other in tuned if other < step), default=math.inf) for step in tuned
    ]
    held_out = tmp_path / "held_out.txt"
    corpus = json.loads((tmp_path / "out" / "run.json").read_text("utf-8"))
    assert corpus["result"]["best_step"] == result.best_step
    # measured again from the files, on the very samples that were kept apart
    import numpy as np

    kept_apart = np.random.default_rng(42).permutation(len(LINES))[: round(len(LINES) * 0.3)]
    held_out.write_text("".join(f"{LINES[number]}\n" for number in sorted(kept_apart)), encoding="utf-8")
    again = tunesmith.evaluate(tmp_path / "out", held_out)
    assert again["perplexity"] == pytest.approx(result.perplexity, rel=1e-5)


def test_prompts_of_the_user_are_continued(make_model_folder: Callable[..., Path], text: Path, tmp_path: Path) -> None:
    """--sample-prompts FILE: the same prompts before and after, with the same seeds."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("Night 1\n\nWind\n", encoding="utf-8")
    out = tmp_path / "out"
    tunesmith.train(text, model=make_model_folder(), out=out, max_steps=2, sample_prompts=str(prompts))
    samples = read_lines(out / "samples.jsonl")
    assert [(line["prompt"], line["seed"]) for line in samples] == [("Night 1", 42), ("Wind", 43)] * 2
    assert all(str(line["text"]).startswith(str(line["prompt"])) for line in samples)


def test_from_scratch_needs_no_weights(make_model_folder: Callable[..., Path], text: Path, tmp_path: Path) -> None:
    """Shape and tokenizer are enough, and an untrained model is about as surprised as it can be."""
    shape = make_model_folder()
    (shape / "model.safetensors").unlink()
    result = tunesmith.train(text, model=shape, out=tmp_path / "out", from_scratch=True, max_steps=8)
    assert result.base_perplexity == pytest.approx(300, rel=0.05)
    assert result.perplexity is not None
    assert result.perplexity < 290
    assert "Trained from scratch in the shape of model" in (tmp_path / "out" / "README.md").read_text("utf-8")


def test_checkpoints_follow_their_own_interval(
    make_model_folder: Callable[..., Path], text: Path, tmp_path: Path
) -> None:
    """--save-steps saves between evaluations; the newest checkpoint and the one before it stay."""
    saved: list[int] = []
    tunesmith.train(
        text, model=make_model_folder(), out=tmp_path / "out", max_steps=7, save_steps=3,
        on_event=lambda event: saved.append(event.step) if isinstance(event, CheckpointSaved) else None,
    )  # fmt: skip
    assert saved == [0, 3, 6, 7]
    names = sorted(path.name for path in (tmp_path / "out" / "checkpoints").glob("[!.]*"))
    assert names == ["step-00000006", "step-00000007"]


def test_a_loss_that_is_no_number_ends_the_run(
    make_model_folder: Callable[..., Path], text: Path, tmp_path: Path
) -> None:
    """A rate that makes the weights explode is an error that names the step, never a clean curve."""
    with pytest.raises(tunesmith.UserError, match=r"non-finite \w+ at step \d+: again after 3 rollbacks") as error:
        tunesmith.train(
            text, model=make_model_folder(), out=tmp_path / "out", epochs=100, learning_rate=0.9,
            max_grad_norm=1e30, warmup_ratio=0.0, weight_decay=1e6,
        )  # fmt: skip
    assert "lower learning_rate (now 0.9)" in error.value.hint


def test_a_damaged_model_is_refused_before_training(
    make_model_folder: Callable[..., Path], text: Path, tmp_path: Path
) -> None:
    """NaN in a checkpoint is named by `train` and by `generate`."""
    folder = make_model_folder()
    state = load_file(folder / "model.safetensors")
    state["transformer.ln_f.bias"][0] = float("nan")
    save_file(state, folder / "model.safetensors")
    with pytest.raises(tunesmith.UserError, match="returns NaN or Inf before training"):
        tunesmith.train(text, model=folder, out=tmp_path / "out", max_steps=3)
    with pytest.raises(tunesmith.UserError, match="returns NaN or infinity"):
        tunesmith.generate(folder)


def test_a_mistyped_option_is_a_type_error(tmp_path: Path) -> None:
    """Python's own error for a keyword that does not exist."""
    with pytest.raises(TypeError, match="learning_rte"):
        tunesmith.train("x.txt", out=tmp_path / "out", learning_rte=1)


def test_the_second_moment_decays_as_requested(
    make_model_folder: Callable[..., Path], text: Path, tmp_path: Path
) -> None:
    """After one step it is (1 - beta2) times the squared gradient (Kingma & Ba 2015, algorithm 1)."""
    moments = {}
    for beta2 in (0.9, 0.99):
        out = tmp_path / f"out {beta2}"
        options = {"adam_beta2": beta2, "max_steps": 1, "precision": "fp32"}
        tunesmith.train(text, model=make_model_folder(str(beta2)), out=out, **options)
        assert json.loads((out / "run.json").read_text("utf-8"))["plan"]["adam_beta2"] == beta2
        moments[beta2] = load_file(out / "checkpoints" / "step-00000001" / "optimizer.safetensors")
    squares = [name for name in moments[0.9] if name.startswith("exp_avg_sq.")]
    assert len(squares) > 10
    for name in squares:
        assert_close(moments[0.9][name], 10 * moments[0.99][name])
