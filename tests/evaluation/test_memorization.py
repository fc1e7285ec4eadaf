"""Novelty: a model that knows its training text by heart is found out, and people's text is not accused."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

import tunesmith
from tunesmith.cli import main
from tunesmith.errors import UserError

WORDS = (
    *("lamp", "wind", "gull", "oil", "rope", "rain", "kettle", "stairs", "dusk", "north"),
    *("ship", "fog", "tide", "bell", "boat", "glass", "rust", "salt", "door", "night"),
)


def lines(seed: int, n: int) -> list[str]:
    """Made-up sentences of twelve words; no two share eight words in a row but by chance."""
    chance = random.Random(seed)
    return [" ".join(chance.choices(WORDS, k=12)) for _ in range(n)]


@pytest.fixture(scope="module")
def overfitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packaged checkpoint, trained on a dozen sentences until it knows them by heart."""
    folder = tmp_path_factory.mktemp("overfitted")
    patch = pytest.MonkeyPatch()
    patch.setenv("TUNESMITH_CACHE", str(folder / "cache"))
    for name, texts in (("learned", lines(1, 12)), ("held-out", lines(2, 200))):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), "utf-8")
    tunesmith.train(
        folder / "learned.jsonl",
        model="tiny",
        out=folder / "model",
        epochs=60,
        learning_rate=3e-3,
        tokens_per_step=256,
    )
    patch.undo()
    checkpoint = max((folder / "model" / "checkpoints").glob("step-*"))  # the best one knew less by heart
    checkpoint.rename(folder / "checkpoint")
    return folder


@pytest.mark.slow
def test_an_overfitted_model_is_found_out(overfitted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nearly all that it writes is copied at 16 tokens, from the sentences named; hardly any of people's text is."""
    named = {"training_data": str(overfitted / "learned.jsonl")}
    result = tunesmith.evaluate(overfitted / "checkpoint", overfitted / "held-out.jsonl", memorization=20, **named)
    written, held_out = result["novelty"]["written"], result["novelty"]["held_out"]
    assert written["copied_share"]["16"] > 0.9
    assert written["copied_share"]["8"] >= written["copied_share"]["16"] >= written["copied_share"]["32"]
    assert held_out["copied_share"]["16"] < 0.02
    longest = written["longest"]
    assert longest["source"] == "learned.jsonl"
    assert longest["text"].strip() in lines(1, 12)[longest["sample"] - 1]

    command = ["evaluate", str(overfitted / "checkpoint"), str(overfitted / "held-out.jsonl"), "--memorization", "5"]
    assert main([*command, "--training-data", named["training_data"]]) == 0
    assert "learned.jsonl, sample" in capsys.readouterr().out
    assert main(command) == 1  # a checkpoint alone does not say what it was trained on
    assert "--training-data" in capsys.readouterr().err


@pytest.mark.slow
def test_copies_are_rejected(overfitted: Path) -> None:
    """No text that is given out holds a copy; where nothing else comes, that is said."""
    named = {"training_data": overfitted / "learned.jsonl"}
    texts = tunesmith.generate(overfitted / "checkpoint", num_samples=6, temperature=2.0, reject_memorized=12, **named)
    assert texts
    assert len({text.seed for text in texts}) == len(texts)
    learned = lines(1, 12)
    for text in texts:
        words = text.text.split()
        runs = [" ".join(words[start : start + 12]) for start in range(len(words) - 11)]
        assert not any(run in sentence for run in runs for sentence in learned)
    with pytest.raises(UserError, match="every text repeats 8 tokens in a row"):
        tunesmith.generate(overfitted / "checkpoint", num_samples=2, temperature=0.1, reject_memorized=8, **named)


def test_a_run_folder_leads_to_its_text(tmp_path: Path, make_model_folder: Callable[..., Path]) -> None:
    """Nothing has to be named right after training; a foreign model has to name its text."""
    text = tmp_path / "text.txt"
    text.write_text("\n".join(lines(3, 40)) + "\n", "utf-8")
    foreign = make_model_folder()
    tunesmith.train(text, model=foreign, out=tmp_path / "run", max_steps=2, val_fraction=0.2)
    result = tunesmith.evaluate(tmp_path / "run", text, memorization=2)
    assert result["novelty"]["held_out"]["copied_share"]["16"] < 0.1  # what was kept apart, not what was named
    with pytest.raises(UserError, match="does not say what it was trained on"):
        tunesmith.evaluate(foreign, text, memorization=2)
    with pytest.raises(UserError, match=r"^reject_memorized 5 is too short"):
        tunesmith.generate(foreign, reject_memorized=5)
