"""Translate the errors of the command line's parser, with suggestions."""

from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import Any, Literal, get_args, get_origin

from cyclopts.exceptions import (
    CoercionError,
    CycloptsError,
    MissingArgumentError,
    RepeatArgumentError,
    UnknownCommandError,
    UnknownOptionError,
    UnusedCliTokensError,
)

from tunesmith.i18n import say


def usage_error(error: CycloptsError) -> str:
    """Return one line with the value and the reason; cyclopts' own English text for rare errors."""
    words = next((words for kind, words in WORDS if isinstance(error, kind) and error.msg is None), str)
    return words(error)


def _unknown_flag(error: UnknownOptionError) -> str:
    word = error.token.keyword or error.token.value
    flag = word if error.token.source in {"", "cli"} else word.removeprefix("--")
    known = [name for argument in error.argument_collection if argument.parse for name in argument.names]
    meant = _nearest(word if word.startswith("-") else f"--{word}", known)
    if error.token.source not in {"", "cli"}:
        if meant is None:
            return say("{file}: there is no setting {name}", file=error.token.source, name=flag)
        name = meant.removeprefix("--")
        return say(
            "{file}: there is no setting {name}. Did you mean {meant}?",
            file=error.token.source,
            name=flag,
            meant=name,
        )
    if meant is None:
        return say("there is no flag {flag}", flag=flag)
    return say("there is no flag {flag}. Did you mean {meant}?", flag=flag, meant=meant)


def _unknown_command(error: UnknownCommandError) -> str:
    command = next(iter(error.unused_tokens or ()), "")
    known = [name for name in (error.app or ()) if not name.startswith("-")]
    meant = _nearest(command, known)
    commands = ", ".join(known)
    if meant is None:
        return say('there is no command "{command}"; there are {commands}', command=command, commands=commands)
    return say(
        'there is no command "{command}". Did you mean "{meant}"? There are {commands}',
        command=command,
        meant=meant,
        commands=commands,
    )


def _missing(error: MissingArgumentError) -> str:
    assert error.argument is not None
    name = error.argument.name
    if error.keyword is not None or error.argument.tokens:
        typed = error.keyword or next((token.keyword for token in error.argument.tokens if token.keyword), name)
        return say("{flag} needs a value", flag=typed)
    if error.argument.index is not None:
        return say("{name} is missing", name=name.lstrip("-").upper())
    return say("{name} is missing", name=name)


def _repeated(error: RepeatArgumentError) -> str:
    return say("{flag} is given more than once", flag=error.token.keyword)


def _not_understood(error: UnusedCliTokensError) -> str:
    return say("not understood: {words}", words=" ".join(error.unused_tokens or ()))


def _no_such_value(error: CoercionError) -> str:
    if error.token is None:
        return str(error)
    value = error.token.value
    flag = error.token.keyword or (error.argument.name if error.argument else "")
    choices = _choices(error.target_type)
    if choices:
        meant = _nearest(value, choices)
        names = ", ".join(choices)
        if meant is None:
            return say('{flag} "{value}": choose from {names}', flag=flag, value=value, names=names)
        return say(
            '{flag} "{value}": choose from {names}. Did you mean "{meant}"?',
            flag=flag,
            value=value,
            names=names,
            meant=meant,
        )
    if error.target_type is int:
        return say('{flag} "{value}" is not a whole number', flag=flag, value=value)
    if error.target_type is float:
        return say('{flag} "{value}" is not a number', flag=flag, value=value)
    return say('{flag} cannot be "{value}"', flag=flag, value=value)


def _choices(kind: object) -> list[str]:
    """Words that are allowed, of a `Literal` or several of them."""
    if get_origin(kind) is Literal:
        return [str(one) for one in get_args(kind)]
    return [choice for part in get_args(kind) for choice in _choices(part)]


def _nearest(word: str, known: Iterable[str]) -> str | None:
    return next(iter(get_close_matches(word, list(known), n=1)), None)


WORDS: tuple[tuple[type[CycloptsError], Callable[[Any], str]], ...] = (
    (UnknownOptionError, _unknown_flag),
    (UnknownCommandError, _unknown_command),
    (MissingArgumentError, _missing),
    (CoercionError, _no_such_value),
    (RepeatArgumentError, _repeated),
    (UnusedCliTokensError, _not_understood),
)
