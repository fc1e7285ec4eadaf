"""Write `src/tunesmith/api_options.py`: the options of the Python API as typed dictionaries.

    python recipes/api_options.py

Type checkers and editors cannot read keyword arguments out of a dataclass, so they get a generated copy of
`tunesmith/config.py`. A test fails while the copy is out of date.
"""

import ast
import inspect
from pathlib import Path

import tunesmith.config
from tunesmith.commands import CONFIGS
from tunesmith.config_values import flag_names

CONFIG = Path(tunesmith.config.__file__)
TARGET = CONFIG.with_name("api_options.py")
PARAMETERS: dict[str, set[str]] = {
    "CacheConfig": set(),
    "DoctorConfig": {"model", "quick", "fix", "yes"},
    "ExplainConfig": {"source"},
    "PrepareConfig": {"sources"},
    "TokenizerTrainConfig": {"sources", "out"},
    "TokenizerExtendConfig": {"model", "sources", "out"},
    "PlanConfig": {"sources"},
    "TrainConfig": {"sources", "out"},
    "EvaluateConfig": {"model", "sources"},
    "GenerateConfig": {"model"},
    "ServeConfig": {"models"},
    "ExportConfig": {"model", "out"},
    "ImportConfig": {"checkpoint", "out"},
    "PushConfig": {"model", "repo"},
    "ReportConfig": {"run"},
    "RunsConfig": {"folder", "compare"},
}
"""What the functions of `tunesmith.api` name themselves."""
COMMAND_LINE_ONLY = {"json"}
HEAD = '''"""Options of the functions in `tunesmith.api`, for type checkers and editors.

Generated from `tunesmith/config.py` by `python recipes/api_options.py`; do not edit.
"""

from collections.abc import Iterable
from os import PathLike
from typing import Literal, TypedDict

from tunesmith.config import {aliases}

Path = str | PathLike[str]
'''


def generated() -> str:
    """The text of the module."""
    classes = {node.name: node for node in ast.parse(CONFIG.read_text("utf-8")).body if isinstance(node, ast.ClassDef)}
    used: set[str] = set()

    def written(title: str, bases: list[str], what: str, names: list[str], mro: tuple[type, ...]) -> str:
        lines = []
        for name in names:
            owner = next(one.__name__ for one in mro if name in inspect.get_annotations(one))
            annotation = option_type(annotation_of(classes[owner], name))
            used.update(node.id for node in ast.walk(ast.parse(annotation)) if isinstance(node, ast.Name))
            lines.append(f"    {name}: {annotation}\n")
        body = "\n" + "".join(lines) if lines else ""
        return f'\n\nclass {title}({", ".join(bases)}, total=False):\n    """{what}"""\n{body}'

    parts = []
    shared = [one for one in vars(tunesmith.config).values() if isinstance(one, type) and is_group(one)]
    for group in shared:
        bases = [options_name(one) for one in group.__bases__ if one in shared] or ["TypedDict"]
        own = [name for name in inspect.get_annotations(group) if name not in COMMAND_LINE_ONLY]
        parts.append(
            written(options_name(group), bases, f"Options of `tunesmith.config.{group.__name__}`.", own, group.__mro__)
        )
    for config in CONFIGS:
        flags = [name for name in flag_names(config) if name not in PARAMETERS[config.__name__] | COMMAND_LINE_ONLY]
        bases = [one for one in config.__bases__ if one in shared]
        inherited = {name for base in bases for name in flag_names(base)}
        names = [name for name in flags if name not in inherited]
        what = f"Options of `tunesmith.config.{config.__name__}`."
        parts.append(
            written(
                options_name(config), [options_name(one) for one in bases] or ["TypedDict"], what, names, config.__mro__
            )
        )
    aliases = ", ".join(sorted(used & set(vars(tunesmith.config)) - {"Literal"}))
    return HEAD.format(aliases=aliases) + "".join(parts)


def is_group(kind: type) -> bool:
    """Whether a class holds options of several commands, and no arguments that have a place of their own."""
    name = kind.__name__
    return kind.__module__ == CONFIG.stem.join(["tunesmith.", ""]) and name.endswith("Config") and kind not in (CONFIGS)


def options_name(kind: type) -> str:
    """Of the dictionary for a dataclass."""
    name = kind.__name__.removesuffix("Config")
    return f"{name}Options" if kind in CONFIGS else f"_{name.removeprefix('_')}Keys"


def annotation_of(node: ast.ClassDef, field: str) -> ast.expr:
    """How a field is annotated, without what only the command line reads."""
    found = next(
        one.annotation
        for one in node.body
        if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name) and one.target.id == field
    )
    if isinstance(found, ast.Subscript) and isinstance(found.value, ast.Name) and found.value.id == "Annotated":
        assert isinstance(found.slice, ast.Tuple)
        return found.slice.elts[0]
    return found


def option_type(annotation: ast.expr) -> str:
    """What Python callers may pass: paths for strings, one value or many where a config holds a tuple."""
    text = ast.unparse(annotation)
    if text.startswith("tuple["):
        kind = option_type(ast.parse(text[len("tuple[") : -len(", ...]")], mode="eval").body)
        return f"{kind} | Iterable[{kind}]"
    return " | ".join("Path" if one == "str" else one for one in text.split(" | ")).replace("'", '"')


if __name__ == "__main__":
    TARGET.write_text(generated(), "utf-8")
