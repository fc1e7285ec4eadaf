"""Values of the config dataclasses: checked against the fields' types, and brought to the form a command line gives.

The command line's parser has converted and checked what was typed; Python callers pass whatever they like. Here both
end in the same config, so that a run is recorded, resumed and started in other processes in one form: paths are
strings, several values are a tuple, numbers are Python's own.
"""

import math
import numbers
from collections.abc import Hashable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import MISSING, Field, fields
from difflib import get_close_matches
from functools import cache
from os import PathLike, fspath
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from tunesmith.errors import UserError
from tunesmith.i18n import say

SYNONYMS = {
    "float16": ("fp16", "f16"),
    "half": ("fp16", "f16"),
    "bfloat16": ("bf16",),
    "float32": ("fp32", "f32"),
    "float": ("fp32", "f32"),
    "full": ("fp32", "f32"),
    "true": ("yes",),
    "false": ("no", "none", "none"),
    "none": ("none",),
    "no": ("none", "none"),
    "off": ("no", "none", "none"),
    "on": ("yes",),
}
"""What other tools call a choice; the first of these words that is one is suggested."""

BOOLEANS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
LONGEST_SHOWN = 120
"""Characters of a value in a message."""


class _WrongValueError(Exception):
    """A value is not of the type.

    Attributes:
        kind: that was asked for.
        value: that was given.
        where: position in a list of values, as it is written in Python; else empty.
        may_be_several: whether a list would do as well.
    """

    def __init__(self, kind: Any, value: object, where: str = "", *, may_be_several: bool = False) -> None:  # noqa: ANN401
        super().__init__()
        self.kind, self.value, self.where, self.may_be_several = kind, value, where, may_be_several


def check_values(config: Any) -> None:  # noqa: ANN401  a frozen dataclass
    """Check every field of a config against its type, and set it to the form that the command line gives.

    Accepts a path for a string, any list, tuple, array or iterator for a tuple, a single value for a tuple of one,
    numbers of numpy and torch, and a float without a fraction for a whole number.

    Raises:
        UserError: naming the field, the value and what is valid.
    """
    kinds = _kinds(config.__class__)
    for field in fields(config):
        value = getattr(config, field.name)
        try:
            checked = _checked(kinds[field.name], value)
        except _WrongValueError as wrong:
            raise _refusal(field, wrong) from None
        if checked is not value:
            object.__setattr__(config, field.name, checked)


def flag_names(config: type) -> list[str]:
    """Return the names of a config's fields."""
    return [field.name for field in fields(config)]


@cache
def _kinds(config: Hashable) -> dict[str, Any]:
    return get_type_hints(config)


def _checked(kind: Any, value: object) -> object:  # noqa: ANN401
    """The value in its recorded form."""
    if get_origin(kind) is tuple:
        return _checked_tuple(get_args(kind)[0], value)
    for one in _alternatives(kind):
        found = _as(one, value)
        if found is not _NO:
            return found
    raise _WrongValueError(kind, value)


def _checked_tuple(kind: Any, value: object) -> tuple[object, ...]:  # noqa: ANN401
    several = _several(value)
    checked = []
    for position, one in enumerate((value,) if several is None else several):
        try:
            checked.append(_checked(kind, one))
        except _WrongValueError:
            where = "" if several is None else f"[{position}]"
            raise _WrongValueError(kind, one, where, may_be_several=several is None) from None
    return tuple(checked)


def _several(value: object) -> Iterator[object] | None:
    """Iterate over several values; None for a single one."""
    if getattr(value, "ndim", None) == 0 or isinstance(value, str | bytes | Mapping | AbstractSet):
        return None
    return iter(value) if isinstance(value, Iterable) else None


def in_one_row(values: Iterable[object]) -> tuple[object, ...]:
    """Arguments of which each may be several values: `f("a", ["b", "c"])` is `f("a", "b", "c")`."""
    return tuple(one for value in values for one in (_several(value) or (value,)))


_NO = object()
"""Not of this type."""


def _as(kind: Any, value: object) -> object:  # noqa: ANN401
    """Convert a value to a type that is neither a union nor a tuple; `_NO` if it is not of that type."""
    if get_origin(kind) is Literal:
        return next((choice for choice in get_args(kind) if isinstance(value, str) and choice == value), _NO)
    if kind is NoneType:
        return None if value is None else _NO
    if kind is str:
        path = fspath(value) if isinstance(value, PathLike) else value
        return str.__str__(path) if isinstance(path, str) else _NO  # a plain one of an enum's or numpy's
    return _as_number(kind, value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value)


def _as_number(kind: Any, value: object) -> object:  # noqa: ANN401
    if kind is bool or isinstance(value, bool):
        return value if kind is bool and isinstance(value, bool) else _NO
    if not isinstance(value, numbers.Real):
        return _NO
    if isinstance(value, numbers.Integral) and kind is int:
        return int(value)
    try:
        number = float(value)
    except OverflowError:
        return _NO
    if kind is int:
        return int(number) if number.is_integer() else _NO
    assert kind is float, f"{kind} is not a type of a config's field"
    return number


def _alternatives(kind: Any) -> tuple[Any, ...]:  # noqa: ANN401
    """The types of a union, or the only one."""
    if get_origin(kind) in {Union, UnionType}:
        return tuple(one for part in get_args(kind) for one in _alternatives(part))
    return (kind,)


def _choices(kind: Any) -> list[str]:  # noqa: ANN401
    return [str(choice) for one in _alternatives(kind) if get_origin(one) is Literal for choice in get_args(one)]


def _refusal(field: "Field[Any]", wrong: _WrongValueError) -> UserError:
    meant = _meant(wrong.kind, wrong.value)
    if meant is not None:
        hint = say("did you mean {meant}?", meant=repr(meant))
    elif field.default is not MISSING:
        hint = say("leave it out for the default, {default}", default=repr(field.default))
    else:
        hint = say("for example {name}='my-model'", name=field.name)
    valid = say(" or ").join(_valid(wrong.kind))
    return UserError(
        "{name} must be {valid}, or a list of them, not {value}"
        if wrong.may_be_several
        else "{name} must be {valid}, not {value}",
        hint="{advice}",
        name=f"{field.name}{wrong.where}",
        valid=valid,
        value=shown_value(wrong.value),
        advice=hint,
    )


def _valid(kind: Any) -> Iterator[str]:  # noqa: ANN401
    """What a value may be, in words."""
    choices = _choices(kind)
    if choices:
        names = ", ".join(map(repr, choices))
        yield say("one of {names}", names=names) if len(choices) > 1 else names
    words = {
        str: say("a string or a path"),
        bool: say("True or False"),
        int: say("a whole number"),
        float: say("a number"),
        NoneType: "None",
    }
    yield from (words[one] for one in _alternatives(kind) if one in words)


def _meant(kind: Any, value: object) -> object:  # noqa: ANN401
    """A valid value that is close to what was given; None where there is none."""
    word = value.strip().lower() if isinstance(value, str) else str(value).lower()
    alternatives = _alternatives(kind)
    if bool in alternatives:
        return BOOLEANS.get(word)
    choices = _choices(kind)
    if choices:
        known = next((choice for choice in SYNONYMS.get(word, ()) if choice in choices), None)
        close = get_close_matches(word, choices, n=1) if isinstance(value, str) else []
        if known or close:
            return known or close[0]
    if isinstance(value, str) and {int, float} & set(alternatives):
        try:
            found = float(value)
        except ValueError:
            return None
        if not math.isfinite(found):
            return None
        return found if float in alternatives else int(found) if found == int(found) else None
    return None


def shown_value(value: object) -> str:
    """A value as it is written in Python, cut where it is long."""
    try:
        shown = repr(value)
    except Exception:  # noqa: BLE001  an object of the caller's
        shown = type(value).__name__
    return shown if len(shown) <= LONGEST_SHOWN else f"{shown[:LONGEST_SHOWN]} ..."
