"""The command `generate`: prompts from everywhere, every option, texts to everywhere."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import tunesmith
from tunesmith.cli import main
from tunesmith.config import GenerateConfig
from tunesmith.errors import UserError
from tunesmith.generation.generate import generate_texts


@pytest.fixture
def folder(make_model_folder: Callable[..., Path]) -> Path:
    """A random model with a tokenizer."""
    return make_model_folder()


PROMPT_FILES = {
    "a.txt": "the lamp\n\nrain at dusk\n",
    "sjis.txt": "灯台の夜\n静かな海\n",
    "a.csv": 'id,prompt\n1,"the lamp, lit"\n2,"two\nlines"\n',
    "text.csv": "id,text\n1,the lamp\n2,rain\n",
    "a.jsonl": '{"prompt": "the lamp", "text": "ignored"}\n{"prompt": "rain"}\n',
    "strings.json": '["the lamp", "rain"]',
}
PROMPTS = {
    "a.txt": ["the lamp", "rain at dusk"],
    "sjis.txt": ["灯台の夜", "静かな海"],
    "a.csv": ["the lamp, lit", "two\nlines"],
    "text.csv": ["the lamp", "rain"],
    "a.jsonl": ["the lamp", "rain"],
    "strings.json": ["the lamp", "rain"],
}


@pytest.mark.parametrize("name", PROMPT_FILES)
def test_prompts_from_a_file(name: str, tmp_path: Path, folder: Path) -> None:
    """A line or a row is a prompt, each gets its samples, seeds count on."""
    (tmp_path / name).write_text(PROMPT_FILES[name], "cp932" if "sjis" in name else "utf-8")
    texts = tunesmith.generate(folder, prompts_file=tmp_path / name, num_samples=2, max_new_tokens=3)
    assert [text.prompt for text in texts] == [prompt for prompt in PROMPTS[name] for _ in range(2)]
    assert [text.seed for text in texts] == [42, 43, 44, 45]
    assert all(text.text.startswith(text.prompt) for text in texts)


@pytest.mark.parametrize(
    ("flag", "piped", "prompts"),
    [
        ("--prompts-file", "rain\nthe lamp\n", ["rain", "the lamp"]),
        ("--prompts-file", '{"prompt": "rain"}\n{"prompt": "the lamp"}\n', ["rain", "the lamp"]),
        ("--prompt", "rain\nat dusk", ["rain\nat dusk"]),
    ],
)
def test_prompts_from_a_pipe(flag: str, piped: str, prompts: list[str], folder: Path) -> None:
    """A prompt a line, an object a line, or all of it as one prompt."""
    command = [sys.executable, "-m", "tunesmith", "generate", str(folder), flag, "-", "--max-new-tokens", "2", "--json"]
    answer = subprocess.run(command, input=piped, capture_output=True, text=True, check=True, encoding="utf-8")
    assert [text["prompt"] for text in json.loads(answer.stdout)] == prompts


def test_a_text_does_not_depend_on_what_else_is_asked_for(folder: Path) -> None:
    """Its seed alone writes it again; the batch size changes nothing; several temperatures share a seed."""
    many = tunesmith.generate(
        folder, prompt=("the lamp", "rain"), num_samples=3, temperature=(0.7, 1.3), max_new_tokens=20, batch_size=4
    )
    assert [(text.prompt, text.seed, text.temperature) for text in many] == [
        (prompt, 42 + 3 * number + sample, temperature)
        for number, prompt in enumerate(("the lamp", "rain"))
        for sample in range(3)
        for temperature in (0.7, 1.3)
    ]
    again = tunesmith.generate(folder, prompt="rain", seed=many[9].seed, temperature=1.3, max_new_tokens=20)
    assert again[0].tokens == many[9].tokens
    assert again[0].logprobs == many[9].logprobs


def test_stop_strings_and_markers_cut(folder: Path) -> None:
    """The text ends before the first of them; what was written up to there is what it was without them."""
    free = tunesmith.generate(folder, prompt="the", max_new_tokens=60, include_prompt=False)[0]
    stop, marker = free.text[20:23], free.text[10:12]
    for options, cuts in (
        ({"stop": stop}, [stop]),
        ({"truncate": marker}, [marker]),
        ({"stop": (stop, marker)}, [stop, marker]),
    ):
        text = tunesmith.generate(folder, prompt="the", max_new_tokens=60, include_prompt=False, **options)[0]
        assert text.finish_reason == "stop"
        assert text.text == free.text[: min(map(free.text.index, cuts))]
        assert text.tokens == free.tokens[: len(text.tokens)]


def test_options_reach_the_engine(folder: Path) -> None:
    """Lengths, penalties and filters do what they say, beyond the model's context too."""
    text = tunesmith.generate(folder, max_new_tokens=200, min_new_tokens=200, no_repeat_ngram_size=2, temperature=0)[0]
    assert len(text.tokens) == 200  # of 64 positions
    pairs = list(zip(text.tokens, text.tokens[1:], strict=False))
    assert len(pairs) == len(set(pairs))
    exactly = {"max_new_tokens": 40, "precision": "fp32"}  # in bf16 tokens can be equally likely
    greedy = tunesmith.generate(folder, temperature=0, **exactly)[0]
    for options in ({"top_k": 1}, {"min_p": 1.0}, {"top_p": 1e-9}):
        assert tunesmith.generate(folder, temperature=1.5, **exactly, **options)[0].tokens == greedy.tokens
    penalised = tunesmith.generate(folder, temperature=0, repetition_penalty=50.0, **exactly)[0]
    assert len(set(penalised.tokens)) > len(set(greedy.tokens))
    rounded = tunesmith.generate(folder, max_new_tokens=5, quantize="int8")[0]
    assert len(rounded.tokens) <= 5


def test_files_out(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """JSON lines with everything, or plain text with a delimiter; an existing file is left alone."""
    out, plain = tmp_path / "texts.jsonl", tmp_path / "texts.txt"
    command = ["generate", str(folder), "--prompt", "rain", "-n", "3", "--max-new-tokens", "5"]
    assert main([*command, "--out", str(out)]) == 0
    lines = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert [line["seed"] for line in lines] == [42, 43, 44]
    assert set(lines[0]) == {"prompt", "text", "seed", "temperature", "finish_reason", "tokens", "logprobs"}
    assert main([*command, "--out", str(plain), "--sample-delim", "===="]) == 0
    assert plain.read_text("utf-8") == "\n====\n".join(line["text"] for line in lines) + "\n"
    capsys.readouterr()
    before = out.read_bytes()
    assert main([*command, "--out", str(out)]) == 1
    assert "is already there" in capsys.readouterr().err
    assert out.read_bytes() == before


def test_temperatures_side_by_side(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each text stands under its temperature."""
    assert main(["generate", str(folder), "--temperature", "0.5", "1.5", "--max-new-tokens", "3"]) == 0
    shown = capsys.readouterr().out
    assert shown.index("[temperature 0.5]") < shown.index("[temperature 1.5]")


def test_ctrl_c_keeps_what_is_finished(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Texts that were done stand in the file, and the exit code says that it was interrupted."""
    from tunesmith.ui import generated_texts

    def interrupt(_self: object, done: int, _of: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(generated_texts.TextProgress, "count", interrupt)
    out = tmp_path / "texts.jsonl"
    command = ["generate", str(folder), "-n", "9", "--max-new-tokens", "5", "--batch-size", "1", "--out", str(out)]
    assert main(command) == 130
    assert len(out.read_text("utf-8").splitlines()) == 2
    assert "2 texts were finished" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"temperature": -1.0}, "--temperature -1.0 makes no sense"),
        ({"top_p": 0.0, "min_p": 2.0}, "--top-p 0.0 makes no sense; --min-p 2.0 makes no sense"),
        ({"min_new_tokens": 300}, "--min-new-tokens 300"),
        ({"batch_size": 0}, "--batch-size 0"),
        ({"stop": ""}, "empty --stop"),
        ({"prompt": "a", "prompts_file": "b"}, "exclude each other"),
        ({"prompts_file": "none.txt"}, "no such file: none.txt"),
        ({"out": "no/such/folder/a.txt"}, "folder not found"),
    ],
)
def test_impossible_settings_are_named(options: dict[str, object], named: str, folder: Path) -> None:
    """All of them at once, before the model is read."""
    with pytest.raises(UserError) as error:
        generate_texts(GenerateConfig(str(folder / "not-read"), **options))
    assert named in error.value.message
