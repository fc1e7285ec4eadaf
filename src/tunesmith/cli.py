"""The command line: `tunesmith COMMAND`.

Results go to stdout, progress and notices to stderr. Exit codes: 0 done, 1 a user's error, 2 usage,
130 interrupted with the work saved. Every error is one `error:` line and one `hint:` line.

Imports nothing heavy before a command really runs: `--help` and a mistyped flag answer at once.
"""

import io
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cyclopts

from tunesmith import __version__
from tunesmith.commands import COMMANDS, Command, json_of
from tunesmith.config import CommonConfig, DoctorConfig, EvaluateConfig, GenerateConfig, ServeConfig, TrainConfig
from tunesmith.errors import UsageError
from tunesmith.i18n import say
from tunesmith.run_dir import RunDir
from tunesmith.ui.argv import settings_of, with_known_names, with_plain_dashes
from tunesmith.ui.help import SpokenHelp
from tunesmith.ui.output import (
    DONE,
    INTERRUPTED,
    USAGE_ERROR,
    USER_ERROR,
    enable_tracebacks,
    fail,
    fail_with,
    notice,
    print_json,
    show_traceback,
)
from tunesmith.utils.device import configure_allocators

if TYPE_CHECKING:
    from tunesmith.distributed.env import TorchrunEnv
    from tunesmith.generation.generate import GeneratedText
    from tunesmith.training.events import TrainResult
    from tunesmith.ui.generated_texts import TextProgress
    from tunesmith.ui.progress import Progress


app = cyclopts.App(
    name="tunesmith",
    help_formatter=SpokenHelp(),
    default_parameter=cyclopts.Parameter(negative=()),
    version=__version__,
    help_format="plaintext",
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)


tokenizer_app = cyclopts.App(name="tokenizer", help="Make tokenizers, or extend a model's.")


def execute(command: Command, config: CommonConfig) -> int:
    """Run a command and print its result."""
    command.check_sources(config)
    result = command.run(config)
    if config.json:
        print_json(json_of(result))
    elif command.view:
        print(command.view(result, config, shutil.get_terminal_size().columns))
    return DONE


def doctor(config: DoctorConfig) -> int:
    """Run `doctor`; fails where a check has failed."""
    if config.yes and not config.fix:
        raise UsageError("--yes has an effect only with --fix", hint="write tunesmith doctor --fix --yes")
    from tunesmith.doctor.doctor import run_doctor
    from tunesmith.ui.doctor_table import doctor_table, fixing_lines

    report = run_doctor(model=config.model, quick=config.quick)
    if config.json:
        print_json(report.as_json())
    else:
        print(doctor_table(report, width=shutil.get_terminal_size().columns, in_color=sys.stdout.isatty()))
    if config.fix:
        from tunesmith.doctor.fixes import run_fixes

        stream = sys.stderr if config.json else sys.stdout
        for line in fixing_lines(report.safe_commands, will_run=config.yes):
            print(line, file=stream)
        if config.yes:
            run_fixes(report.safe_commands)
            return DONE
    return USER_ERROR if report.has_failed else DONE


def train(config: TrainConfig) -> int:
    """Fine-tune a GPT-2 model on your text."""
    env = _torchrun_env()
    if env is None and config.devices > 1:
        from tunesmith.training.run_sync import launch_training

        return launch_training(config)
    configure_allocators()
    from tunesmith.distributed.world import AlreadyReportedError
    from tunesmith.training import train as training
    from tunesmith.training.stop import StopRequest
    from tunesmith.ui.progress import Progress

    speaks = env is None or env.rank == 0
    try:
        stop = StopRequest()
        with Progress(quiet=config.quiet or not speaks, is_stopping=stop) as progress:
            result = training.train(config, on_event=progress.show, stop=stop)
    except AlreadyReportedError:
        return USER_ERROR
    except KeyboardInterrupt:
        if not RunDir(Path(config.out)).exists():
            raise
        notice(
            say("interrupted:"),
            say("stopped at once; what was saved before stays: tunesmith train --resume --out {out}", out=config.out),
        )
        return INTERRUPTED
    return _told_result(config, result, progress, env)


def _told_result(config: TrainConfig, result: "TrainResult", progress: "Progress", env: "TorchrunEnv | None") -> int:
    """Say how a run ended, where this process speaks for it; its exit code."""
    # torchrun must not start the processes again when they were asked to end.
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
    """Read torchrun's variables; None for a single process."""
    from tunesmith.distributed.env import torchrun_env

    env = torchrun_env()
    if env is not None:
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")  # torch's network says in many lines what we say in one
    return env


def _in_processes(config: EvaluateConfig | GenerateConfig) -> int:
    """Run the command in several processes."""
    from tunesmith.distributed.launcher import launch

    return launch(config)


def evaluate(config: EvaluateConfig) -> int:
    """Run `evaluate`, in several processes if `--devices` says so."""
    env = _torchrun_env()
    if env is None and config.devices > 1:
        return _in_processes(config)
    configure_allocators()
    from tunesmith.distributed.world import AlreadyReportedError

    try:
        if env is None or not env.rank:
            return execute(COMMAND_OF["evaluate"], config)
        COMMAND_OF["evaluate"].run(config)
    except AlreadyReportedError:
        return USER_ERROR
    return DONE


def generate(config: GenerateConfig) -> int:
    """Write text with a model."""
    env = _torchrun_env()
    if env is None and config.devices > 1:
        return _in_processes(config)
    configure_allocators()
    from tunesmith.ui.generated_texts import TextProgress, keep_texts, texts_block

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
        notice(
            say("left out:"), say("{count:,} texts that copied in every attempt (--reject-memorized)", count=left_out)
        )
    return code


def _texts(config: GenerateConfig, progress: "TextProgress") -> "tuple[list[GeneratedText], int]":
    """What was written, and the exit code."""
    from tunesmith.distributed.world import AlreadyReportedError
    from tunesmith.generation.generate import Interrupted, generate_texts

    try:
        return generate_texts(config, on_text=progress.count, show=progress.show, on_model=progress.note), DONE
    except Interrupted as interruption:
        return interruption.texts, INTERRUPTED
    except AlreadyReportedError:
        return [], USER_ERROR


def serve(config: ServeConfig) -> int:
    """Serve models: completions in OpenAI's form, and a page to play with."""
    if config.runs is not None:
        return _serve_runs(config)
    if not config.models:
        raise UsageError("no model was named", hint="name one or several: tunesmith serve my-model")
    configure_allocators()
    from tunesmith.serving.server import serve_models
    from tunesmith.ui.output import ServingLines

    lines = ServingLines(quiet=config.quiet)
    show = (lambda serving: print_json(lines.as_json(serving))) if config.json else lines.ready
    serve_models(config, on_ready=show, on_request_finished=lines.answered)
    return DONE


def _serve_runs(config: ServeConfig) -> int:
    """Runs instead of models."""
    if config.models:
        raise UsageError(
            "--runs shows trainings, and {models} are models to write with",
            hint="start two servers: tunesmith serve --runs DIR, and tunesmith serve MODEL",
            models=", ".join(config.models),
        )
    from tunesmith.dashboard.launch import serve_runs
    from tunesmith.ui.output import ServingLines

    lines = ServingLines(quiet=config.quiet)
    serve_runs(config, on_ready=lambda ready: print_json({"url": ready.url}) if config.json else lines.runs(ready.url))
    return DONE


COMMAND_OF = {command.name: command for command in COMMANDS}
PRINTING: dict[str, Callable[[Any], int]] = {
    "doctor": doctor,
    "train": train,
    "evaluate": evaluate,
    "generate": generate,
    "serve": serve,
}
"""Commands that print while they run, or whose exit code depends on the result."""


def _register(command: Command) -> None:
    """Add a command to the command line; a command in a group to the group."""
    group, _, name = command.name.rpartition(" ")

    def run(config: CommonConfig) -> int:
        return execute(command, config)

    function = PRINTING.get(command.name, run)
    function.__annotations__ = {"config": command.config, "return": int}
    if command.has_defaults:
        function.__defaults__ = (command.config(),)
    (tokenizer_app if group else app).command(function, name=name, help=command.config.__doc__)


app.command(tokenizer_app)
for registered in COMMANDS:
    _register(registered)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    use_utf8()
    tokens = with_known_names(with_plain_dashes(sys.argv[1:] if arguments is None else arguments))
    enable_tracebacks(tokens)
    try:
        app.config = settings_of(tokens)
        app.help = say(
            "Fine-tune GPT-2 on the GPU you own. Start with: tunesmith train FILE.txt --model tiny --out my-model"
        )
        app.help_epilogue = say(
            "Any flag can also be set in a TOML or YAML file: --config FILE. Flags on the command line win. "
            "--traceback shows where an error arose."
        )
        return int(app(tokens, exit_on_error=False, print_error=False) or DONE)
    except cyclopts.CycloptsError as error:
        from tunesmith.ui.usage_errors import usage_error

        return fail(usage_error(error), usage_hint(tokens), USAGE_ERROR)
    except BrokenPipeError:  # the reader of our output has seen enough
        sys.stdout = io.StringIO()
        return DONE
    except Exception as error:  # noqa: BLE001  whatever it is, its cause or its env and how to report it are shown
        return fail_with(error)
    except KeyboardInterrupt:
        show_traceback()
        notice(say("interrupted:"), say("stopped at once"))
        return INTERRUPTED
    finally:
        app.config = ()  # the file of this command is not that of the next one in this process


def usage_hint(tokens: list[str]) -> str:
    """The help that fits what was typed."""
    command = next((token for token in tokens if token in app and not token.startswith("-")), "")
    return say("see {command}", command=f"tunesmith {command} --help" if command else "tunesmith --help")


def use_utf8() -> None:
    """UTF-8 with LF line ends on every system, Windows consoles included."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", newline="\n", errors="replace")
