"""The table of commands: every entry can be imported, and the typed options of the Python API are up to date."""

import ast
import importlib.util
import inspect
from pathlib import Path
from types import ModuleType
from typing import get_type_hints

import pytest

import tunesmith
from tunesmith import api
from tunesmith.commands import COMMANDS, Command, load
from tunesmith.config_values import flag_names

ROOT = Path(__file__).parents[1]
SOURCE = (ROOT / "src" / "tunesmith" / "commands.py").read_text("utf-8")


def recipe(name: str) -> ModuleType:
    """A program of recipes/ as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "recipes" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def paths_in(source: str) -> list[str]:
    """Every `module:function` in the table."""
    return [word for word in source.split('"') if ":" in word and " " not in word and "." in word and "\n" not in word]


@pytest.mark.parametrize("path", paths_in(SOURCE))
def test_every_function_and_view_can_be_imported(path: str) -> None:
    """A path in the table names a function that exists."""
    assert inspect.isfunction(load(path))


def test_the_table_has_paths() -> None:
    """The test above sees every command's function but one (`doctor` has two arguments)."""
    assert len(paths_in(SOURCE)) >= 2 * len(COMMANDS) - 6


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_command_is_a_function_of_the_python_api(command: Command) -> None:
    """Each has its name in `tunesmith.__all__` and lists every option, as `help` and completion show them."""
    assert command.python_name in tunesmith.__all__
    function = getattr(api, command.python_name)
    parameters = inspect.signature(function).parameters
    takes_options = any(
        one.kind is inspect.Parameter.VAR_KEYWORD for one in inspect.signature(function).parameters.values()
    )
    assert not takes_options
    listed = set(parameters) - {"on_event", "progress", "on_ready"}
    assert listed <= set(flag_names(command.config))
    assert set(flag_names(command.config)) - listed <= {"json", "fix", "yes", "lang", "compare"}


def test_the_typed_options_are_up_to_date() -> None:
    """`api_options.py` has the code that `recipes/api_options.py` writes today."""
    kept = (ROOT / "src" / "tunesmith" / "api_options.py").read_text("utf-8")
    fresh = recipe("api_options").generated()
    assert ast.dump(ast.parse(kept)) == ast.dump(ast.parse(fresh)), "run: python recipes/api_options.py"


def test_types_of_options_accept_what_the_config_accepts() -> None:
    """Paths where a config holds a string, one value or several where it holds a tuple."""
    from tunesmith.api_options import TrainOptions

    hints = {name: str(kind) for name, kind in get_type_hints(TrainOptions).items()}
    assert "PathLike" in hints["model"]
    assert "Iterable" in hints["lora_target_modules"]
    assert "Literal['auto']" in hints["learning_rate"]
