"""Show what `doctor` and `explain` found: a line for each check or cause, and under it what fixes it."""

import io
import shlex

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tunesmith.diagnostics.run_diagnosis import Cause, Explanation
from tunesmith.doctor.doctor import MachineReport
from tunesmith.doctor.fixes import Check, Status
from tunesmith.i18n import say
from tunesmith.ui.wrapping import aligned, printable

COLORS: dict[Status, str] = {"ok": "green", "warn": "yellow", "fail": "bold red"}
LEAST_WIDTH = 60


def doctor_table(report: MachineReport, *, width: int, in_color: bool) -> str:
    """Show all checks and a summary, at most `width` cells wide."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check in report.checks:
        table.add_row(Text(say(check.status), COLORS[check.status]), Text(say(check.name)), _told(check))
    console = Console(
        width=max(width, LEAST_WIDTH),
        file=io.StringIO(),
        force_terminal=in_color,
        no_color=not in_color,
        highlight=False,
    )
    with console.capture() as capture:
        console.print(table)
        console.print()
        console.print(Text(summary(report)))
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def _told(check: Check) -> Text:
    text = Text(printable(check.finding))
    if check.fix.text:
        text.append("\n→ " + printable(check.fix.text), style="bold" if check.status == "fail" else "")
    return text


def summary(report: MachineReport) -> str:
    """Return the next thing to do."""
    failed = [check for check in report.checks if check.status == "fail"]
    warned = [check for check in report.checks if check.status == "warn"]
    if not failed and not warned:
        return say("all is well: tunesmith train FILE --model gpt2 --out my-model")
    counts = []
    if failed:
        counts.append(say("does not work: {names}", names=", ".join(say(check.name) for check in failed)))
    if warned:
        counts.append(say("could be better: {names}", names=", ".join(say(check.name) for check in warned)))
    text = "; ".join(counts)
    return (
        text + "\n" + say("tunesmith doctor --fix lists what can be fixed from here") if report.safe_commands else text
    )


def fixing_lines(commands: tuple[tuple[str, ...], ...], *, will_run: bool) -> list[str]:
    """Lines that `--fix` prints before anything is run."""
    if not commands:
        return [say("nothing here can be fixed by a command of this environment; the lines above say what helps")]
    head = say("running:") if will_run else say("these can be run from here, or by tunesmith doctor --fix --yes:")
    return [head, *(f"  {shlex.join(command)}" for command in commands)]


def explanation_text(explanation: Explanation, *, width: int) -> str:
    """Show causes with their evidence and fix, or that none is known."""
    width = max(width, LEAST_WIDTH)
    if not explanation.causes:
        return aligned([(say("cause"), say("unknown: it contains no known symptom")), (say("next"), _next())], width)
    blocks = [aligned(_rows(cause), width) for cause in explanation.causes]
    if explanation.others:
        seen = ", ".join(other.name for other in explanation.others)
        blocks.append(say("also seen: {names}", names=seen))
    return "\n\n".join(blocks)


def _rows(cause: Cause) -> list[tuple[str, str]]:
    evidence = [(say("seen") if position == 0 else "", printable(line)) for position, line in enumerate(cause.evidence)]
    return [(say("cause"), printable(cause.cause)), *evidence, (say("fix"), printable(cause.fix))]


def _next() -> str:
    return say("give more of the log, its first error above all; tunesmith doctor checks the machine")
