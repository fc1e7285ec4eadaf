"""Commands, each registered once: the command line, the Python API and the tests read this table.

Nothing is imported before a command runs, so that `--help` and a mistyped flag answer at once.
"""

import sys
from collections.abc import Callable
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from importlib import import_module
from typing import Any

from tunesmith.config import (
    CacheConfig,
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
from tunesmith.errors import UsageError
from tunesmith.i18n import LazyString

Function = Callable[[Any], Any]
View = Callable[[Any, Any, int], str]
"""From a result, its config and the terminal's width to text."""


def load(path: str) -> Callable[..., Any]:
    """Import `module:function`; the module is below `tunesmith`."""
    module, _, name = path.partition(":")
    function: Callable[..., Any] = getattr(import_module(f"tunesmith.{module}"), name)
    return function


def _function(path: str) -> Function:
    """A function that is imported when it is called."""
    return lambda config: load(path)(config)  # noqa: PLW0108  not imported before


def _view(path: str) -> View:
    """A view that needs the result only."""
    return lambda result, _config, _width: str(load(path)(result))


def _terminal_width(width: int) -> int | None:
    """None where stdout is a file or a pipe: its lines are not wrapped."""
    return width if sys.stdout.isatty() else None


@dataclass(frozen=True)
class Command:
    """A command: its name, its options, the function that runs it and the view of its result.

    Attributes:
        name: as typed; `tokenizer train` is `train` in the group `tokenizer`.
        config: its options; the docstring is its help.
        function: from the config to the result.
        view: text of the result; None where `cli.py` prints while the command runs.
        python_name: function of `tunesmith.api`.
        hint_without_sources: where sources are needed, and none is given.
    """

    name: str
    config: type[CommonConfig]
    function: Function
    view: View | None = None
    python_name: str = ""
    hint_without_sources: LazyString | None = None

    def run(self, config: CommonConfig) -> Any:  # noqa: ANN401
        """Run the command and return its result.

        Raises:
            UserError: if it cannot be done.
        """
        return self.function(config)

    def check_sources(self, config: CommonConfig) -> None:
        """Check that a text is given, where the command needs one.

        Raises:
            UsageError: with an example.
        """
        if self.hint_without_sources and not getattr(config, "sources", ()):
            raise UsageError("no source was named", hint="{advice}", advice=self.hint_without_sources)

    @property
    def has_defaults(self) -> bool:
        """Whether every option has a default."""
        return all(field.default is not MISSING for field in fields(self.config))


def json_of(result: Any) -> Any:  # noqa: ANN401
    """Return a result as `--json` prints it."""
    if isinstance(result, list):
        return [json_of(one) for one in result]
    if hasattr(result, "as_json"):
        return result.as_json()
    return asdict(result) if is_dataclass(result) and not isinstance(result, type) else result


def _runs_view(result: Any, config: RunsConfig, _width: int) -> str:  # noqa: ANN401
    if config.compare:
        return str(load("ui.result_tables:comparison_table")(result))
    return str(load("ui.result_tables:runs_table")(result, config.folder))


COMMANDS = (
    Command(
        "doctor",
        DoctorConfig,
        lambda config: load("doctor.doctor:run_doctor")(model=config.model, quick=config.quick),
        python_name="doctor",
    ),
    Command(
        "prepare",
        PrepareConfig,
        _function("tokenization.prepare:prepare_text"),
        _view("ui.prepare_report:lint_report"),
        python_name="prepare",
        hint_without_sources=LazyString("name the text: tunesmith prepare FILE --tokenizer gpt2"),
    ),
    Command(
        "tokenizer train",
        TokenizerTrainConfig,
        _function("tokenization.train_tokenizer:train_tokenizer"),
        lambda result, config, _width: load("ui.result_tables:tokenizer_table")(result, config.sources),
        python_name="train_tokenizer",
        hint_without_sources=LazyString("name the text: tunesmith tokenizer train FILE --out DIR"),
    ),
    Command(
        "tokenizer extend",
        TokenizerExtendConfig,
        _function("tokenization.extend_tokenizer:extend_tokenizer"),
        lambda result, _config, width: load("ui.result_tables:extension_table")(result, _terminal_width(width)),
        python_name="extend_tokenizer",
    ),
    Command(
        "plan",
        PlanConfig,
        _function("training.estimate:estimate"),
        lambda result, _config, width: load("ui.plan_table:forecast_report")(result, width=width),
        python_name="plan",
    ),
    Command("train", TrainConfig, _function("training.train:train"), python_name="train"),
    Command(
        "evaluate",
        EvaluateConfig,
        _function("evaluation.evaluate:evaluate_model"),
        lambda result, _config, width: load("ui.result_tables:evaluation_table")(result, _terminal_width(width)),
        python_name="evaluate",
        hint_without_sources=LazyString("name the text to measure on: tunesmith evaluate MODEL FILE"),
    ),
    Command("generate", GenerateConfig, _function("generation.generate:generate_texts"), python_name="generate"),
    Command(
        "export",
        ExportConfig,
        _function("convert.export:export_model"),
        _view("ui.result_tables:export_lines"),
        python_name="export",
    ),
    Command(
        "import",
        ImportConfig,
        _function("convert.import_checkpoint:import_checkpoint"),
        _view("ui.result_tables:import_lines"),
        python_name="import_model",
    ),
    Command(
        "push",
        PushConfig,
        _function("convert.push:push_model"),
        _view("ui.result_tables:push_lines"),
        python_name="push",
    ),
    Command("serve", ServeConfig, _function("serving.server:serve_models"), python_name="serve"),
    Command(
        "report",
        ReportConfig,
        _function("reporting.write_report:write_report"),
        lambda result, _config, _width: f"{result['verdict']}\n{result['report']}",
        python_name="report",
    ),
    Command("runs", RunsConfig, _function("reporting.comparison:list_or_compare_runs"), _runs_view, python_name="runs"),
    Command(
        "cache",
        CacheConfig,
        _function("data.cache:show_cache"),
        _view("ui.result_tables:cache_table"),
        python_name="cache",
    ),
    Command(
        "explain",
        ExplainConfig,
        _function("diagnostics.explain:explain"),
        lambda result, _config, width: load("ui.doctor_table:explanation_text")(result, width=width),
        python_name="explain",
    ),
)

CONFIGS = tuple(command.config for command in COMMANDS)
