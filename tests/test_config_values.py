"""What Python callers pass for an option: checked like typed flags, and recorded as those would be."""

import dataclasses
import json
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tunesmith
from tunesmith.cli import app
from tunesmith.commands import CONFIGS
from tunesmith.config import EvaluateConfig, GenerateConfig, PrepareConfig, ServeConfig, TrainConfig
from tunesmith.distributed.launcher import command_for
from tunesmith.errors import UserError
from tunesmith.ui.argv import settings_of


class Choice(StrEnum):
    """As a program may keep its settings."""

    EXACT = "exact"


REQUIRED = {"out": "o", "model": "tiny", "repo": "me/it", "checkpoint": "c", "run": "r"}


def made(config: type, **options: Any) -> Any:
    """A config with what it needs, and these options."""
    needed = {
        field.name: REQUIRED[field.name] for field in dataclasses.fields(config) if field.default is dataclasses.MISSING
    }
    return config(**{**needed, **options})


EVERY_FIELD = [(config, field.name) for config in CONFIGS for field in dataclasses.fields(config)]


@pytest.mark.parametrize(("config", "name"), EVERY_FIELD, ids=lambda value: getattr(value, "__name__", value))
def test_every_field_is_checked(config: type, name: str) -> None:
    """What is no value at all is refused under the option's name in Python, with no word of flags."""
    for wrong in (object(), {"a": 1}, [{}], [["a"]], b"bytes"):
        with pytest.raises(UserError) as caught:
            made(config, **{name: wrong})
        assert caught.value.message.startswith(name)
        assert "--" not in str(caught.value)


def by_default(kind: type) -> list[tuple[type, str]]:
    """Every field whose default is of a type."""
    return [
        (config, field.name)
        for config in CONFIGS
        for field in dataclasses.fields(config)
        if type(field.default) is kind
    ]


@pytest.mark.parametrize(("config", "name"), by_default(bool), ids=lambda value: getattr(value, "__name__", value))
def test_switches_are_true_or_false(config: type, name: str) -> None:
    """Words, numbers and None are refused; numpy's booleans are not."""
    for wrong, meant in (("no", "False"), ("yes", "True"), (0, "False"), (1, "True")):
        with pytest.raises(UserError) as caught:
            made(config, **{name: wrong})
        assert caught.value.message == f"{name} must be True or False, not {wrong!r}"
        assert caught.value.hint == f"did you mean {meant}?"
    with pytest.raises(UserError, match=f"^{name} must be True or False, not None"):
        made(config, **{name: None})
    assert getattr(made(config, **{name: np.bool_(True)}), name) is True


@pytest.mark.parametrize(
    ("config", "name"), by_default(int) + by_default(float), ids=lambda value: getattr(value, "__name__", value)
)
def test_numbers_are_numbers(config: type, name: str) -> None:
    """Text, None, booleans and lists are refused; numpy's and torch's numbers become Python's own."""
    default = next(field.default for field in dataclasses.fields(config) if field.name == name)
    for wrong in ("3", "much", None, True, [1], 10**400 if isinstance(default, float) else 0.5):
        with pytest.raises(UserError) as caught:
            made(config, **{name: wrong})
        assert caught.value.message.startswith(f"{name} must be a")
    for given in (np.int64(3), np.float32(3), np.array(3), torch.tensor(3), 3, 3.0):
        value = getattr(made(config, **{name: given}), name)
        assert type(value) is type(default)
        assert value == 3


@pytest.mark.parametrize(
    ("config", "options", "message", "hint"),
    [
        (
            TrainConfig,
            {"precision": "float16"},
            "precision must be one of 'auto', 'bf16', 'fp16', 'fp32', not 'float16'",
            "did you mean 'fp16'?",
        ),
        (
            TrainConfig,
            {"optimizer": "sgd"},
            "optimizer must be one of 'auto', 'adamw', 'muon', not 'sgd'",
            "leave it out for the default, 'auto'",
        ),
        (TrainConfig, {"from_scratch": "no"}, "from_scratch must be True or False, not 'no'", "did you mean False?"),
        (
            PrepareConfig,
            {"dedupe": "yes"},
            "dedupe must be one of 'none', 'exact', 'near', not 'yes'",
            "leave it out for the default, 'none'",
        ),
        (
            TrainConfig,
            {"freeze": "all"},
            "freeze must be one of 'none', 'embeddings' or a whole number, not 'all'",
            "leave it out for the default, 'none'",
        ),
        (GenerateConfig, {"quantize": "int4"}, "quantize must be one of 'none', 'int8', not 'int4'", "mean 'int8'?"),
        (ServeConfig, {"quantize": True}, "quantize must be one of 'none', 'int8', not True", "the default, 'none'"),
        (TrainConfig, {"shard": True}, "shard must be one of 'auto', 'yes', 'no', not True", "did you mean 'yes'?"),
        (TrainConfig, {"learning_rate": "5e-5"}, "learning_rate must be 'auto' or a number, not '5e-5'", "5e-05"),
        (TrainConfig, {"max_steps": 2.5}, "max_steps must be a whole number or None, not 2.5", "default, None"),
        (
            TrainConfig,
            {"report_to": ["wandb", "tensorbord"]},
            "report_to[1] must be one of 'tensorboard', 'wandb', 'trackio', 'mlflow', not 'tensorbord'",
            "did you mean 'tensorboard'?",
        ),
        (TrainConfig, {"model": ["a"]}, "model must be a string or a path, not ['a']", "the default, 'gpt2'"),
        (TrainConfig, {"out": None}, "out must be a string or a path, not None", "for example out='my-model'"),
        (
            GenerateConfig,
            {"temperature": "hot"},
            "temperature must be a number, or a list of them, not 'hot'",
            "leave it out for the default, (0.8,)",
        ),
        (
            PrepareConfig,
            {"sources": {"a.txt"}},
            "sources must be a string or a path, or a list of them, not {'a.txt'}",
            "leave it out for the default, ()",
        ),
    ],
    ids=lambda value: str(value)[:30] if isinstance(value, dict) else None,
)
def test_messages_name_the_option_the_value_and_what_is_valid(
    config: type, options: dict[str, Any], message: str, hint: str
) -> None:
    """Each says enough to correct the call without looking anything up."""
    with pytest.raises(UserError) as caught:
        made(config, **options)
    assert caught.value.message == message
    assert hint in caught.value.hint


def test_a_choice_may_be_a_member_of_an_enum() -> None:
    """It is recorded as a plain string."""
    assert type(PrepareConfig(dedupe=Choice.EXACT).dedupe) is str
    assert PrepareConfig(dedupe=Choice.EXACT).dedupe == "exact"
    assert PrepareConfig(dedupe=np.str_("near")).dedupe == "near"


def several(*values: Any) -> list[Any]:
    """The same values in every form that Python has for several in an order."""

    def generator() -> Iterator[Any]:
        yield from values

    return [list(values), tuple(values), generator(), iter(values), np.array(values, dtype=object)]


@pytest.mark.parametrize(
    ("config", "name", "values"),
    [
        (TrainConfig, "sources", ("a.txt", "b.txt")),
        (TrainConfig, "source_weights", (2.0, 0.5)),
        (TrainConfig, "lora_target_modules", ("attn.c_attn", "mlp.c_fc")),
        (TrainConfig, "report_to", ("wandb", "mlflow")),
        (EvaluateConfig, "training_data", ("a.txt", "b.txt")),
        (GenerateConfig, "prompt", ("Once", "Twice")),
        (GenerateConfig, "temperature", (0.5, 1.0)),
        (GenerateConfig, "stop", ("\n", ".")),
        (GenerateConfig, "training_data", ("a.txt", "b.txt")),
        (ServeConfig, "models", ("tiny", "my-model")),
    ],
)
def test_several_values_in_every_form(config: type, name: str, values: tuple[Any, ...]) -> None:
    """Lists, tuples, generators, arrays and a single value are recorded as the same tuple of plain values."""
    for given in several(*values):
        recorded = getattr(made(config, **{name: given}), name)
        assert recorded == values
        assert [type(one) for one in recorded] == [type(one) for one in values]
    assert getattr(made(config, **{name: values[0]}), name) == values[:1]
    assert getattr(made(config, **{name: []}), name) == ()


def test_paths_are_recorded_as_strings() -> None:
    """Alone and in a list, wherever a file or a folder is named."""
    config = TrainConfig(
        sources=[Path("a.txt"), "b.txt"],
        out=Path("out"),
        model=Path("m"),
        sample_prompts=Path("p"),
        tokenizer=Path("t"),
    )
    recorded = (config.sources, config.out, config.model, config.sample_prompts, config.tokenizer)
    assert recorded == (("a.txt", "b.txt"), "out", "m", "p", "t")


ODD = 'two  spaces\tä 漢字\u3000 [bold] {brace} "quoted" $HOME \\n -x'
TYPED = [
    made(
        TrainConfig,
        sources=[Path("a b.txt"), "--odd", "-"],
        source_weights=[2, np.float32(0.1)],
        out=Path("my run"),
        model=Path("some/model"),
        template=ODD,
        split_on="\n\n",
        text_field="--text",
        dedupe="near",
        lora_r=np.int64(4),
        lora_target_modules=["attn.c_attn", "mlp.c_fc"],
        report_to=["tensorboard", "wandb"],
        learning_rate=np.float64(1e-4) / 3,
        max_steps=10.0,
        max_grad_norm=float("inf"),
        freeze=2,
        resume=True,
        json=True,
        lang="ja",
        shard="yes",
        seed=2**40,
    ),
    made(
        EvaluateConfig,
        model="m",
        sources="a.txt",
        training_data=[Path("a"), "b c"],
        stride=3.0,
        worst=0,
        json=True,
    ),
    made(
        GenerateConfig,
        quiet=True,
        prompt=["", ODD, "-", "--out=x", "two\nlines"],
        temperature=[0.1, 1 / 3],
        stop=["\n", "--", " "],
        include_prompt=False,
        training_data=Path("a"),
        truncate="<|end|>",
        batch_size=4,
    ),
]


@pytest.mark.parametrize("config", TYPED, ids=lambda config: type(config).__name__)
def test_other_processes_get_the_same_config(config: Any) -> None:
    """What the processes of `devices=2` are started with, read by the command line, is what Python passed."""
    before = app.config
    with command_for(config) as (_, _, *tokens):
        try:
            app.config = settings_of(tokens)
            _, bound, _ = app.parse_args(tokens, exit_on_error=False, print_error=False)
        finally:
            app.config = before
    [read] = bound.args
    assert read == config


@pytest.fixture
def texts(tmp_path: Path) -> list[Path]:
    """Two files of a few samples."""
    paths = [tmp_path / "a  b.txt", tmp_path / "c.txt"]
    for number, path in enumerate(paths):
        path.write_text("\n".join(f"File {number}, night {night}, lamp steady." for night in range(20)), "utf-8")
    return paths


@pytest.mark.slow
def test_a_run_of_lists_is_resumed(texts: list[Path], tmp_path: Path) -> None:
    """Sources, source weights and LoRA targets as lists: stopped and resumed, the run is that of typed tuples."""
    options: dict[str, Any] = {"model": "tiny", "max_steps": 4, "tokens_per_step": 256, "lora_r": 2, "dropout": 0.1}
    lists = {"source_weights": [1, 2], "lora_target_modules": ["attn.c_attn"], "report_to": []}
    for event in tunesmith.training_events(texts, out=tmp_path / "lists", **options, **lists):
        if isinstance(event, tunesmith.events.StepLogged) and event.step == 2:
            break
    again = {"source_weights": [1.0, 2.0], "lora_target_modules": ["attn.c_attn"]}
    result = tunesmith.train(texts, out=tmp_path / "lists", resume=True, **again)
    assert (result.steps, result.interrupted) == (4, False)
    typed = {"source_weights": (1.0, 2.0), "lora_target_modules": ("attn.c_attn",)}
    tunesmith.train(*map(str, texts), out=str(tmp_path / "tuples"), **options, **typed)
    asked = [json.loads((tmp_path / name / "run.json").read_text("utf-8"))["config"] for name in ("lists", "tuples")]
    same = {name for name in asked[0] if asked[0][name] == asked[1][name]}
    assert set(asked[0]) - same == {"out", "resume"}
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("lists", "tuples")]
    assert files[0] == files[1]


def test_sources_in_every_place(texts: list[Path]) -> None:
    """One after the other, as a list, among others, by name, from a glob: the same text is prepared."""
    folder = texts[0].parent
    expected = tunesmith.prepare(*map(str, texts), tokenizer="tiny")
    for found in (
        tunesmith.prepare(texts, tokenizer="tiny"),
        tunesmith.prepare([texts[0]], texts[1], tokenizer="tiny"),
        tunesmith.prepare(sources=tuple(texts), tokenizer="tiny"),
        tunesmith.prepare(sorted(folder.glob("*.txt")), tokenizer="tiny"),
        tunesmith.prepare(iter(texts), tokenizer="tiny"),
    ):
        assert found == expected


def test_errors_name_python_options(texts: list[Path], tmp_path: Path) -> None:
    """What is found wrong later is called by the option's name as well; a command that can be typed stays one."""
    with pytest.raises(UserError) as caught:
        tunesmith.train(texts, out=tmp_path / "out", model="tiny", learning_rate=3.0, max_grad_norm=-1)
    assert caught.value.message == "learning_rate 3.0 is not between 0 and 1; max_grad_norm -1.0 is not above 0"
    assert caught.value.hint == "see tunesmith train --help"
    for raised in tunesmith.training_events, tunesmith.train:
        with pytest.raises(UserError, match=r"^val_fraction 2\.0 is not between"):
            list(raised(texts, out=tmp_path / "out", model="tiny", val_fraction=2))


def test_an_unknown_option_is_a_type_error() -> None:
    """As of any Python function, with the option that may have been meant."""
    with pytest.raises(TypeError, match=r"TrainConfig has no option 'learning_rat'\. Did you mean 'learning_rate'\?"):
        tunesmith.train("a.txt", out="o", learning_rat=1e-4)
