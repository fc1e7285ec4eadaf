"""The command line: `tunesmith VERB`.

Results go to stdout, progress and notices to stderr. Exit codes: 0 done, 1 a user's error, 2 usage,
130 interrupted with the work saved. Every error is one `error:` line and one `hint:` line.

Imports nothing heavy before a verb really runs: `--help` and a mistyped flag answer at once.
"""

import io
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import cyclopts

from tunesmith import __version__
from tunesmith.allocator import set_up_allocators
from tunesmith.config import (
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
from tunesmith.errors import UsageError, UserError
from tunesmith.interfaces.console import (
    DONE,
    INTERRUPTED,
    USAGE_ERROR,
    USER_ERROR,
    fail,
    fail_by_the_machine,
    notice,
    print_json,
)
from tunesmith.interfaces.help import SpokenHelp
from tunesmith.interfaces.typed_words import settings_of, with_plain_dashes
from tunesmith.messages.catalogue import say
from tunesmith.messages.system_errors import said_by_system

if TYPE_CHECKING:
    from tunesmith.distributed.env import TorchrunEnv
    from tunesmith.generation.write_texts import GeneratedText
    from tunesmith.interfaces.progress import Progress
    from tunesmith.interfaces.texts import TextProgress
    from tunesmith.training.events import TrainResult


app = cyclopts.App(
    name="tunesmith",
    help_formatter=SpokenHelp(),
    default_parameter=cyclopts.Parameter(negative=()),
    version=__version__,
    help_format="plaintext",
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)


NOTHING_ASKED = PrepareConfig()
WHOLE_MACHINE = DoctorConfig()
STANDARD_INPUT = ExplainConfig()
NOTHING_PLANNED = PlanConfig()
NOTHING_SERVED = ServeConfig()
NOTHING_LISTED = RunsConfig()
"""Every flag of these verbs has a default, so the parser wants one for all of them."""


@app.command
def doctor(config: DoctorConfig = WHOLE_MACHINE) -> int:
    """Check this machine, and say what mends it."""
    from tunesmith.doctor.examination import examine
    from tunesmith.interfaces.doctor_table import doctor_table, fixing_lines

    verdict = examine(model=config.model, quick=config.quick)
    if config.json:
        print_json(verdict.as_json())
    else:
        print(doctor_table(verdict, width=shutil.get_terminal_size().columns, in_color=sys.stdout.isatty()))
    if config.fix:
        from tunesmith.doctor.fixing import fix

        stream = sys.stderr if config.json else sys.stdout
        for line in fixing_lines(verdict.safe_commands, will_run=config.yes):
            print(line, file=stream)
        if config.yes:
            fix(verdict.safe_commands)
            return DONE
    return USER_ERROR if verdict.has_failed else DONE


@app.command
def explain(config: ExplainConfig = STANDARD_INPUT) -> int:
    """Find the cause of an error, and what mends it."""
    from tunesmith.explaining.explain import explain as run
    from tunesmith.interfaces.explanation_text import explanation_text

    explanation = run(config)
    if config.json:
        print_json(explanation.as_json())
    else:
        print(explanation_text(explanation, width=shutil.get_terminal_size().columns))
    return DONE


@app.command
def prepare(config: PrepareConfig = NOTHING_ASKED) -> int:
    """Turn text into training tokens, and show what the model will see."""
    if not config.sources:
        raise UsageError("no source was named", hint="name the text: tunesmith prepare FILE --tokenizer gpt2")
    from tunesmith.preparation.prepare import prepare_text

    report = prepare_text(config)
    if config.json:
        print_json(report)
    else:
        from tunesmith.interfaces.lint_report import lint_report

        print(lint_report(report))
    return DONE


tokenizer_app = cyclopts.App(name="tokenizer", help="Make tokenizers, or extend a model's.")
app.command(tokenizer_app)


@tokenizer_app.command(name="train")
def train_tokenizer(config: TokenizerTrainConfig) -> int:
    """Make a byte-level BPE tokenizer from your text."""
    if not config.sources:
        raise UsageError("no source was named", hint="name the text: tunesmith tokenizer train FILE --out DIR")
    from tunesmith.preparation.train_tokenizer import train_tokenizer as run

    result = run(config)
    if config.json:
        print_json(result)
    else:
        from tunesmith.interfaces.tables import tokenizer_table

        print(tokenizer_table(result, config.sources))
    return DONE


@tokenizer_app.command(name="extend")
def extend_tokenizer(config: TokenizerExtendConfig) -> int:
    """Add words, frequent pieces of a text or special tokens to the vocabulary of a model."""
    from tunesmith.preparation.extend_tokenizer import extend_tokenizer as run

    result = run(config)
    if config.json:
        print_json(result)
    else:
        from tunesmith.interfaces.extension_table import extension_table

        print(extension_table(result, shutil.get_terminal_size().columns if sys.stdout.isatty() else None))
    return DONE


@app.command
def plan(config: PlanConfig = NOTHING_PLANNED) -> int:
    """Say what a training run would do, what it needs and how long it takes."""
    from tunesmith.training.forecast import forecast

    found = forecast(config)
    if config.json:
        print_json(found.as_json())
    else:
        from tunesmith.interfaces.plan_table import forecast_report

        print(forecast_report(found, width=shutil.get_terminal_size().columns))
    return DONE


@app.command
def train(config: TrainConfig) -> int:
    """Fine-tune a GPT-2 model on your text."""
    env = _torchrun_env()
    if env is None and config.devices > 1:
        from tunesmith.training.run_sync import launch_training

        return launch_training(config)
    set_up_allocators()
    from tunesmith.distributed.world import AlreadyReportedError
    from tunesmith.interfaces.progress import Progress
    from tunesmith.run_training import run_training
    from tunesmith.training.interrupt import StopRequest

    speaks = env is None or env.rank == 0
    try:
        stop = StopRequest()
        with Progress(quiet=config.quiet or not speaks, is_stopping=stop) as progress:
            result = run_training(config, on_event=progress.show, stop=stop)
    except AlreadyReportedError:
        return USER_ERROR
    except KeyboardInterrupt:
        if not (Path(config.out) / "run.json").is_file():
            raise
        notice(
            say("interrupted:"),
            say("stopped at once; what was saved before stays: tunesmith train --resume --out {out}", out=config.out),
        )
        return INTERRUPTED
    return _told_result(config, result, progress, env)


def _told_result(config: TrainConfig, result: "TrainResult", progress: "Progress", env: "TorchrunEnv | None") -> int:
    """Say how a run ended, where this process speaks for it; its exit code."""
    # Whoever starts processes again after a failure is not to do so when they were asked to end.
    interrupted = DONE if env is not None and env.restarts_enabled else INTERRUPTED
    if env is not None and env.rank:
        return interrupted if result.interrupted else DONE
    if config.json:
        print_json(asdict(result))
    else:
        print(progress.summary(result))
    if not result.interrupted:
        return DONE
    by = result.stopped_by if result.stopped_by.startswith("--") else ""
    saved = say(
        "everything is saved ({by}); continue with: tunesmith train --resume --out {out}"
        if by
        else "everything is saved; continue with: tunesmith train --resume --out {out}",
        by=by,
        out=config.out,
    )
    notice(say("interrupted:"), saved)
    return interrupted


def _torchrun_env() -> "TorchrunEnv | None":
    """This process among those that share a verb's work; None where it is the only one."""
    from tunesmith.distributed.env import torchrun_env

    env = torchrun_env()
    if env is not None:
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")  # torch's network says in many lines what we say in one
    return env


def _in_processes(config: EvaluateConfig | GenerateConfig) -> int:
    """Start others, who do what was asked."""
    from tunesmith.distributed.launcher import launch

    return launch(config)


@app.command
def evaluate(config: EvaluateConfig) -> int:
    """Measure perplexity on text, over every token once."""
    if not config.sources:
        raise UsageError("no source was named", hint="name the text to measure on: tunesmith evaluate MODEL FILE")
    env = _torchrun_env()
    if env is None and config.devices > 1:
        return _in_processes(config)
    set_up_allocators()
    from tunesmith.distributed.world import AlreadyReportedError
    from tunesmith.evaluation.evaluate import evaluate_model

    try:
        result = evaluate_model(config)
    except AlreadyReportedError:
        return USER_ERROR
    if env is not None and env.rank:
        return DONE
    if config.json:
        print_json(result)
    else:
        from tunesmith.interfaces.tables import evaluation_table

        print(evaluation_table(result, shutil.get_terminal_size().columns if sys.stdout.isatty() else None))
    return DONE


@app.command
def generate(config: GenerateConfig) -> int:
    """Write text with a model."""
    env = _torchrun_env()
    if env is None and config.devices > 1:
        return _in_processes(config)
    set_up_allocators()
    from tunesmith.interfaces.texts import TextProgress, keep_texts, texts_block

    speaks = env is None or env.rank == 0
    with TextProgress(quiet=config.quiet or not speaks, streams=speaks and not (config.json or config.out)) as progress:
        texts, code = _texts(config, progress)
    if not speaks or code == USER_ERROR:
        return code
    if config.out and texts:
        keep_texts(texts, config)
    if config.json:
        print_json([asdict(text) for text in texts])
    elif config.out:
        print(say("{count:,} texts written to {path}", count=len(texts), path=config.out))
    elif not progress.streamed:
        print(texts_block(texts, config))
    if code == INTERRUPTED:
        notice(say("interrupted:"), say("{count:,} texts were finished", count=len(texts)))
    elif progress.asked > len(texts) and not config.quiet:
        left_out = progress.asked - len(texts)
        notice(say("left out:"), say("{count:,} texts that copied in every attempt (--reject-copied)", count=left_out))
    return code


def _texts(config: GenerateConfig, progress: "TextProgress") -> "tuple[list[GeneratedText], int]":
    """What was written, and the exit code."""
    from tunesmith.distributed.world import AlreadyReportedError
    from tunesmith.generation.generate import generate_texts
    from tunesmith.generation.write_texts import Interrupted

    try:
        return generate_texts(config, on_text=progress.count, show=progress.show, on_model=progress.note), DONE
    except Interrupted as interruption:
        return interruption.texts, INTERRUPTED
    except AlreadyReportedError:
        return [], USER_ERROR


@app.command
def serve(config: ServeConfig = NOTHING_SERVED) -> int:
    """Serve models: completions in OpenAI's form, and a page to play with."""
    if config.runs is not None:
        return _serve_runs(config)
    if not config.models:
        raise UsageError("no model was named", hint="name one or several: tunesmith serve my-model")
    set_up_allocators()
    from tunesmith.interfaces.serving_lines import ServingLines
    from tunesmith.serving.serve import serve_models

    lines = ServingLines(quiet=config.quiet)
    show = (lambda serving: print_json(lines.as_json(serving))) if config.json else lines.ready
    serve_models(config, on_ready=show, on_answer=lines.answered)
    return DONE


def _serve_runs(config: ServeConfig) -> int:
    """Runs instead of models."""
    if config.models:
        raise UsageError(
            "--runs shows trainings, and {models} are models to write with",
            hint="start two servers: tunesmith serve --runs DIR, and tunesmith serve MODEL",
            models=", ".join(config.models),
        )
    from tunesmith.dashboard.serve_runs import serve_runs
    from tunesmith.interfaces.serving_lines import ServingLines

    lines = ServingLines(quiet=config.quiet)
    serve_runs(config, on_ready=lambda ready: print_json({"url": ready.url}) if config.json else lines.runs(ready.url))
    return DONE


@app.command
def export(config: ExportConfig) -> int:
    """Write a model in another form, checked after writing."""
    from tunesmith.exporting.export import export_model

    result = export_model(config)
    if config.json:
        print_json(result)
    else:
        from tunesmith.interfaces.in_and_out import export_lines

        print(export_lines(result))
    return DONE


@app.command
def push(config: PushConfig) -> int:
    """Upload a model to the Hugging Face hub: its ordinary files and its card, nothing else of the run."""
    from tunesmith.exporting.push import push_model

    result = push_model(config)
    if config.json:
        print_json(result)
    else:
        from tunesmith.interfaces.in_and_out import push_lines

        print(push_lines(result))
    return DONE


@app.command(name="import")
def import_model(config: ImportConfig) -> int:
    """Make a model folder of another program's checkpoint, read back after writing."""
    from tunesmith.importing.import_checkpoint import import_checkpoint

    result = import_checkpoint(config)
    if config.json:
        print_json(result)
    else:
        from tunesmith.interfaces.in_and_out import import_lines

        print(import_lines(result))
    return DONE


@app.command
def report(config: ReportConfig) -> int:
    """Write one HTML file about a run, readable offline."""
    from tunesmith.reporting.write_report import write_report

    result = write_report(config)
    if config.json:
        print_json(result)
    else:
        print(f"{result['verdict']}\n{result['report']}")
    return DONE


@app.command
def runs(config: RunsConfig = NOTHING_LISTED) -> int:
    """List runs, or lay some of them side by side."""
    if config.compare:
        from tunesmith.reporting.comparison import compare_runs

        compared = compare_runs(config)
        if config.json:
            print_json(compared)
        else:
            from tunesmith.interfaces.run_tables import comparison_table

            print(comparison_table(compared))
        return DONE
    from tunesmith.reporting.run_list import list_runs

    rows = list_runs(config)
    if config.json:
        print_json(rows)
    else:
        from tunesmith.interfaces.run_tables import runs_table

        print(runs_table(rows, config.folder))
    return DONE


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    use_utf8()
    tokens = with_plain_dashes(sys.argv[1:] if arguments is None else arguments)
    try:
        app.config = settings_of(tokens)
        app.help = say(
            "Fine-tune GPT-2 on the GPU you own. Start with: tunesmith train FILE.txt --model tiny --out my-model"
        )
        app.help_epilogue = say(
            "Any flag can also stand in a TOML or YAML file: --config FILE. Flags on the command line win."
        )
        return run_verb(tokens)
    except cyclopts.CycloptsError as error:
        from tunesmith.interfaces.usage_errors import usage_error

        return fail(usage_error(error), usage_hint(tokens), USAGE_ERROR)
    except UserError as error:
        return fail(error.message, error.hint, USAGE_ERROR if isinstance(error, UsageError) else USER_ERROR)
    except BrokenPipeError:  # the reader of our output has seen enough
        sys.stdout = io.StringIO()
        return DONE
    except OSError as error:  # no permission, no space, a disk gone: the system's own words name it best
        return fail(
            f"{error.filename or say('a file')}: {said_by_system(error)}",
            say("check space and permissions"),
            USER_ERROR,
        )
    except KeyboardInterrupt:
        notice(say("interrupted:"), say("stopped at once"))
        return INTERRUPTED
    finally:
        app.config = ()  # the file of this command is not that of the next one in this process


def usage_hint(tokens: list[str]) -> str:
    """The help that fits what was typed."""
    verb = next((token for token in tokens if token in app and not token.startswith("-")), "")
    return say("see {command}", command=f"tunesmith {verb} --help" if verb else "tunesmith --help")


def use_utf8() -> None:
    """UTF-8 with LF line ends on every system, Windows consoles included."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", newline="\n", errors="replace")


def run_verb(tokens: list[str]) -> int:
    """Run what was typed."""
    try:
        return int(app(tokens, exit_on_error=False, print_error=False) or DONE)
    except (RuntimeError, ImportError) as error:  # torch's, of the card, its driver or a library, is not our bug
        return fail_by_the_machine(error)
