"""The verbs as Python functions: keyword arguments are the fields of the verb's configuration.

Each function imports its verb when it is called: `prepare` works without torch, and nothing waits for what it does not
use.
"""

from collections.abc import Callable
from contextlib import closing
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any

from tunesmith.config import (
    EvaluateConfig,
    ExportConfig,
    GenerateConfig,
    PlanConfig,
    PrepareConfig,
    TokenizerTrainConfig,
    TrainConfig,
)

if TYPE_CHECKING:
    from tunesmith.generation.generate import GeneratedText
    from tunesmith.training.events import Event, TrainResult

Source = str | PathLike[str]


def prepare(*sources: Source, **options: Any) -> dict[str, Any]:  # noqa: ANN401
    """Turn text into training tokens; the keys of the result are those of `tunesmith prepare --json`.

    Args:
        sources: files, folders or globs.
        options: any other field of `tunesmith.config.PrepareConfig`, for example `tokenizer="tiny"`.

    Raises:
        UserError: if it cannot be done.
        TypeError: for an option that does not exist.
    """
    from tunesmith.preparation.prepare import prepare_text  # noqa: PLC0415

    return prepare_text(PrepareConfig(tuple(fspath(source) for source in sources), **_plain(options)))


def train_tokenizer(*sources: Source, out: Source, **options: Any) -> dict[str, Any]:  # noqa: ANN401
    """Make a byte-level BPE tokenizer from text; the keys of the result are those of `tokenizer train --json`.

    Args:
        sources: files, folders or globs.
        out: folder for the tokenizer.
        options: any other field of `tunesmith.config.TokenizerTrainConfig`, for example `vocab_size=16_000`.

    Raises:
        UserError: if it cannot be done.
        TypeError: for an option that does not exist.
    """
    from tunesmith.preparation.train_tokenizer import train_tokenizer as run  # noqa: PLC0415

    return run(TokenizerTrainConfig(tuple(fspath(source) for source in sources), out=fspath(out), **_plain(options)))


def plan(*sources: Source, **options: Any) -> dict[str, Any]:  # noqa: ANN401
    """Say what a training run would do; the keys of the result are those of `tunesmith plan --json`.

    Args:
        sources: text files; none plans for full windows.
        options: any field of `tunesmith.config.PlanConfig`, for example `model="gpt2-xl"`, `vram="12GB"`.

    Raises:
        UserError: if it cannot be done.
        TypeError: for an option that does not exist.
    """
    from tunesmith.training.forecast import forecast  # noqa: PLC0415

    return forecast(PlanConfig(sources=tuple(fspath(source) for source in sources), **_plain(options))).as_json()


def train(
    *sources: Source,
    out: Source,
    on_event: "Callable[[Event], None] | None" = None,
    **options: Any,  # noqa: ANN401
) -> "TrainResult":
    """Fine-tune a model on text.

    Args:
        sources: text files.
        out: folder for the result.
        on_event: called with everything that happens (`tunesmith.training.events`).
        options: any other field of `tunesmith.config.TrainConfig`, for example `model="tiny"`, `epochs=5`.

    Raises:
        UserError: if it cannot be done.
        TypeError: for an option that does not exist.
    """
    config = TrainConfig(sources=tuple(fspath(source) for source in sources), out=fspath(out), **_plain(options))
    return run_training(config, on_event=on_event or (lambda _event: None))


def run_training(config: TrainConfig, *, on_event: "Callable[[Event], None]") -> "TrainResult":
    """Train as configured; Ctrl-C and SIGTERM save and end the run.

    Raises:
        UserError: if it cannot be done.
    """
    from tunesmith.training.events import Ended, StopAsked  # noqa: PLC0415  as the module's docstring says
    from tunesmith.training.interrupt import StopRequest, stop_on_signals  # noqa: PLC0415
    from tunesmith.training.job import train_model  # noqa: PLC0415

    stop = StopRequest()
    events = train_model(config, stop=stop)
    on_event(next(events))  # until here there is nothing to save, and Ctrl-C ends at once
    with closing(events), stop_on_signals(stop, on_request=lambda: on_event(StopAsked())):
        for event in events:
            on_event(event)
            if isinstance(event, Ended):
                return event.result
    raise AssertionError("the loop ends with Ended")


def evaluate(model: Source, *sources: Source, **options: Any) -> dict[str, Any]:  # noqa: ANN401
    """Measure perplexity; the keys of the result are those of `tunesmith evaluate --json`.

    Args:
        model: tiny, a preset, a hub id, a folder or a run folder.
        sources: text files.
        options: any other field of `tunesmith.config.EvaluateConfig`.

    Raises:
        UserError: if it cannot be done.
        TypeError: for an option that does not exist.
    """
    from tunesmith.evaluation.evaluate import evaluate_model  # noqa: PLC0415

    return evaluate_model(EvaluateConfig(fspath(model), tuple(fspath(source) for source in sources), **_plain(options)))


def generate(model: Source, **options: Any) -> "list[GeneratedText]":  # noqa: ANN401
    """Write texts.

    Args:
        model: tiny, a preset, a hub id, a folder or a run folder.
        options: any other field of `tunesmith.config.GenerateConfig`, for example `prompt="Once"`.

    Raises:
        UserError: if it cannot be done.
        TypeError: for an option that does not exist.
    """
    from tunesmith.generation.generate import generate_texts  # noqa: PLC0415

    return generate_texts(GenerateConfig(fspath(model), **_plain(options)))


def export(model: Source, *, out: Source, **options: Any) -> dict[str, Any]:  # noqa: ANN401
    """Write a model in another form; the keys of the result are those of `tunesmith export --json`.

    Args:
        model: an adapter's folder, or a run that has one.
        out: folder for the result.
        options: any other field of `tunesmith.config.ExportConfig`, for example `merge=True`.

    Raises:
        UserError: if it cannot be done.
        TypeError: for an option that does not exist.
    """
    from tunesmith.exporting.merge import merge_adapter  # noqa: PLC0415

    return merge_adapter(ExportConfig(fspath(model), out=fspath(out), **_plain(options)))


def _plain(options: dict[str, Any]) -> dict[str, Any]:
    """Paths as the strings that a command line would give."""
    return {name: fspath(value) if isinstance(value, PathLike) else value for name, value in options.items()}
