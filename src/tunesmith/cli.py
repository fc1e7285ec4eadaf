"""The command line: `tunesmith VERB`.

Results go to stdout, progress and notices to stderr. Exit codes: 0 done, 1 a user's error, 2 usage,
130 interrupted with the work saved. Every error is one `error:` line and one `hint:` line.

Imports nothing heavy before a verb really runs: `--help` and a mistyped flag answer at once.
"""

import io
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import cyclopts
from cyclopts.config import Dict

from tunesmith import __version__
from tunesmith.allocator import set_up_allocators
from tunesmith.config import (
    EvaluateConfig,
    ExportConfig,
    GenerateConfig,
    PlanConfig,
    PrepareConfig,
    TokenizerTrainConfig,
    TrainConfig,
)
from tunesmith.errors import UsageError, UserError

DONE, USER_ERROR, USAGE_ERROR, INTERRUPTED = 0, 1, 2, 130

app = cyclopts.App(
    name="tunesmith",
    help="Fine-tune GPT-2 on the GPU you own. Start with: tunesmith train FILE.txt --model tiny --out my-model",
    help_epilogue="Any flag can also stand in a TOML or YAML file: --config FILE. Flags on the command line win.",
    default_parameter=cyclopts.Parameter(negative=()),
    version=__version__,
    help_format="plaintext",
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)


CONFIGS = (PrepareConfig, TokenizerTrainConfig, PlanConfig, TrainConfig, EvaluateConfig, GenerateConfig, ExportConfig)
SWITCHES = {
    f"--{sign}{flag.name.replace('_', '-')}"
    for config in CONFIGS
    for flag in fields(config)
    if isinstance(flag.default, bool)
    for sign in ("", "no-")
}
"""Flags that take no value."""

NOTHING_ASKED = PrepareConfig()
NOTHING_PLANNED = PlanConfig()
"""Every flag of these verbs has a default, so the parser wants one for all of them."""


@app.command
def prepare(config: PrepareConfig = NOTHING_ASKED) -> int:
    """Turn text into training tokens, and show what the model will see."""
    if not config.sources:
        raise UsageError("no source was named", hint="name the text: tunesmith prepare FILE --tokenizer gpt2")
    from tunesmith.preparation.prepare import prepare_text  # noqa: PLC0415

    report = prepare_text(config)
    if config.json:
        print_json(report)
    else:
        from tunesmith.interfaces.lint_report import lint_report  # noqa: PLC0415

        print(lint_report(report))
    return DONE


tokenizer_app = cyclopts.App(name="tokenizer", help="Make tokenizers.")
app.command(tokenizer_app)


@tokenizer_app.command(name="train")
def train_tokenizer(config: TokenizerTrainConfig) -> int:
    """Make a byte-level BPE tokenizer from your text."""
    if not config.sources:
        raise UsageError("no source was named", hint="name the text: tunesmith tokenizer train FILE --out DIR")
    from tunesmith.preparation.train_tokenizer import train_tokenizer as run  # noqa: PLC0415

    result = run(config)
    if config.json:
        print_json(result)
    else:
        from tunesmith.interfaces.tables import tokenizer_table  # noqa: PLC0415

        print(tokenizer_table(result, config.sources))
    return DONE


@app.command
def plan(config: PlanConfig = NOTHING_PLANNED) -> int:
    """Say what a training run would do, what it needs and how long it takes."""
    from tunesmith.training.forecast import forecast  # noqa: PLC0415

    found = forecast(config)
    if config.json:
        print_json(found.as_json())
    else:
        from tunesmith.interfaces.plan_table import forecast_report  # noqa: PLC0415

        print(forecast_report(found, width=shutil.get_terminal_size().columns))
    return DONE


@app.command
def train(config: TrainConfig) -> int:
    """Fine-tune a GPT-2 model on your text."""
    set_up_allocators()
    from tunesmith.api import run_training  # noqa: PLC0415  torch is imported late
    from tunesmith.interfaces.progress import Progress  # noqa: PLC0415

    try:
        with Progress(quiet=config.quiet) as progress:
            result = run_training(config, on_event=progress.show)
    except KeyboardInterrupt:
        if not (Path(config.out) / "run.json").is_file():
            raise
        notice(
            "interrupted:", f"stopped at once; what was saved before stays: tunesmith train --resume --out {config.out}"
        )
        return INTERRUPTED
    if config.json:
        print_json(asdict(result))
    else:
        print(progress.summary(result))
    if result.interrupted:
        by = f" ({result.stopped_by})" if result.stopped_by.startswith("--") else ""
        notice("interrupted:", f"everything is saved{by}; continue with: tunesmith train --resume --out {config.out}")
        return INTERRUPTED
    return DONE


@app.command
def evaluate(config: EvaluateConfig) -> int:
    """Measure perplexity on text, over every token once."""
    if not config.sources:
        raise UsageError("no source was named", hint="name the text to measure on: tunesmith evaluate MODEL FILE")
    set_up_allocators()
    from tunesmith.evaluation.evaluate import evaluate_model  # noqa: PLC0415

    result = evaluate_model(config)
    if config.json:
        print_json(result)
    else:
        from tunesmith.interfaces.tables import evaluation_table  # noqa: PLC0415

        print(evaluation_table(result, shutil.get_terminal_size().columns if sys.stdout.isatty() else None))
    return DONE


@app.command
def generate(config: GenerateConfig) -> int:
    """Write text with a model."""
    set_up_allocators()
    from tunesmith.generation.generate import Interrupted, generate_texts  # noqa: PLC0415
    from tunesmith.interfaces.texts import TextProgress, keep_texts, texts_block  # noqa: PLC0415

    code = DONE
    with TextProgress(quiet=config.quiet, streams=not (config.json or config.out)) as progress:
        try:
            texts = generate_texts(config, on_text=progress.count, show=progress.show)
        except Interrupted as interruption:
            texts, code = interruption.texts, INTERRUPTED
    if config.out and texts:
        keep_texts(texts, config)
    if config.json:
        print_json([asdict(text) for text in texts])
    elif config.out:
        print(f"{len(texts):,} texts written to {config.out}")
    elif not progress.streamed:
        print(texts_block(texts, config))
    if code == INTERRUPTED:
        notice("interrupted:", f"{len(texts):,} texts were finished")
    elif progress.asked > len(texts) and not config.quiet:
        notice("left out:", f"{progress.asked - len(texts):,} texts that copied in every attempt (--reject-copied)")
    return code


@app.command
def export(config: ExportConfig) -> int:
    """Write a model in another form, checked after writing."""
    from tunesmith.exporting.merge import merge_adapter  # noqa: PLC0415

    result = merge_adapter(config)
    if config.json:
        print_json(result)
    else:
        print(f"{result['out']}: {result['adapter']} merged into {result['base']}, an ordinary model folder")
    return DONE


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    use_utf8()
    tokens = with_plain_dashes(sys.argv[1:] if arguments is None else arguments)
    try:
        with_config_file(tokens)
        return int(app(tokens, exit_on_error=False, print_error=False) or DONE)
    except cyclopts.CycloptsError as error:
        return fail(str(error), usage_hint(tokens), USAGE_ERROR)
    except UserError as error:
        return fail(error.message, error.hint, USAGE_ERROR if isinstance(error, UsageError) else USER_ERROR)
    except BrokenPipeError:  # the reader of our output has seen enough
        sys.stdout = io.StringIO()
        return DONE
    except OSError as error:  # no permission, no space, a disk gone: the system's own words name it best
        return fail(
            f"{error.filename or 'a file'}: {error.strerror or error}", "check space and permissions", USER_ERROR
        )
    except KeyboardInterrupt:
        notice("interrupted:", "stopped at once")
        return INTERRUPTED


def with_plain_dashes(typed: Sequence[str]) -> list[str]:
    """A lone - is the value of the flag before it, else standard input; the parser would take it for a flag."""
    tokens: list[str] = []
    for word in typed:
        before = tokens[-1] if tokens else ""
        if word == "-" and before.startswith("--") and "=" not in before and before not in SWITCHES:
            tokens[-1] = f"{before}=-"
        else:
            tokens.append("stdin:" if word == "-" else word)
    return tokens


def with_config_file(tokens: list[str]) -> None:
    """Take `--config FILE` out of the tokens and let its settings fill what no flag says.

    Raises:
        UserError: if the file cannot be read.
    """
    app.config = ()
    for position, token in enumerate(tokens):
        name, _, value = token.partition("=")
        if name != "--config":
            continue
        path = value or next(iter(tokens[position + 1 :]), "")
        if not path:
            raise UsageError("--config needs a file", hint="write --config FILE.toml or --config FILE.yaml")
        del tokens[position : position + (1 if value else 2)]
        from tunesmith.interfaces.config_file import read_config_file  # noqa: PLC0415

        app.config = (Dict(read_config_file(path), source=path, use_commands_as_keys=False),)
        return


def usage_hint(tokens: list[str]) -> str:
    """The help that fits what was typed."""
    verb = next(
        (
            token
            for token in tokens
            if token in {"prepare", "tokenizer", "plan", "train", "evaluate", "generate", "export"}
        ),
        "",
    )
    return f"see tunesmith {verb + ' ' if verb else ''}--help"


def use_utf8() -> None:
    """UTF-8 with LF line ends on every system, Windows consoles included."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", newline="\n", errors="replace")


def print_json(value: Any) -> None:  # noqa: ANN401
    """One JSON value on stdout."""
    print(json.dumps(value, ensure_ascii=False))


def fail(message: str, hint: str, code: int) -> int:
    """Say what is wrong and what to do, on stderr."""
    notice("error:", " ".join(message.split()))
    notice("hint:", hint)
    return code


def notice(label: str, text: str) -> None:
    """One line on stderr; text from files and names cannot drive the terminal."""
    from tunesmith.interfaces.tables import printable  # noqa: PLC0415  for errors only

    print(label, printable(text), file=sys.stderr)
