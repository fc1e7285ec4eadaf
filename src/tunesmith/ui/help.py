"""Translate `--help`: the docstrings of commands and flags are texts of the catalog.

cyclopts does the layout. Imports nothing heavy until help is shown.
"""

from typing import TYPE_CHECKING, Any

from tunesmith.i18n import say

if TYPE_CHECKING:
    from cyclopts.help import HelpEntry, HelpPanel
    from cyclopts.help.specs import ColumnSpec
    from rich.console import Console, ConsoleOptions, RenderableType

NOTHING_TO_SAY = {"False", "()"}
"""Defaults that go without saying: a switch is off, a list is empty."""


class SpokenHelp:
    """Formatter that cyclopts shows help with."""

    def __call__(self, console: "Console", options: "ConsoleOptions", panel: "HelpPanel") -> None:
        """Show the commands, or the flags of one."""
        from cyclopts.help.formatters import DefaultFormatter

        DefaultFormatter(column_specs=_columns)(console, options, panel.copy(title=_translated(panel.title)))

    def render_usage(self, console: "Console", options: "ConsoleOptions", usage: Any) -> None:  # noqa: ANN401, ARG002
        """Show the usage line."""
        from rich.text import Text

        console.print(Text(say("Usage: {command}", command=str(usage).strip()), style="bold"), soft_wrap=True)
        console.print()

    def render_description(self, console: "Console", options: "ConsoleOptions", description: Any) -> None:  # noqa: ANN401
        """Show what a command does."""
        from tunesmith.ui.wrapping import wrapped

        console.print("\n".join(wrapped(_translated(description), options.max_width)), markup=False, highlight=False)
        console.print()


def _columns(console: "Console", options: "ConsoleOptions", entries: "list[HelpEntry]") -> "tuple[ColumnSpec, ...]":
    from cyclopts.help.specs import get_default_command_columns, get_default_parameter_columns

    are_flags = any(entry.type is not None for entry in entries)
    usual = get_default_parameter_columns if are_flags else get_default_command_columns
    *others, description = usual(console, options, entries)
    return (*others, description.copy(renderer=_described))


def _described(entry: "HelpEntry") -> "RenderableType":
    """Description of a command or a flag, with choices and default."""
    from rich.text import Text

    from tunesmith.ui.wrapping import WrappedText

    shown = WrappedText(_translated(entry.description))
    if entry.choices:
        shown.append(Text(" " + say("[choices: {names}]", names=", ".join(entry.choices)), "cyclopts.choices"))
    if entry.default is not None and entry.default not in NOTHING_TO_SAY:
        shown.append(Text(" " + say("[default: {value}]", value=entry.default), "cyclopts.default"))
    if entry.required:
        shown.append(Text(" " + say("[required]"), "cyclopts.required"))
    return shown


def _translated(text: Any) -> str:  # noqa: ANN401  a string, or one of cyclopts' and rich's texts
    plain = getattr(getattr(text, "primary_renderable", text), "plain", text)
    return say(" ".join(str(plain or "").split()))
