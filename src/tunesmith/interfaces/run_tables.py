"""Runs as tables for a terminal or a pipe."""

from collections.abc import Sequence
from typing import Any

from rich.cells import cell_len

from tunesmith.interfaces.tables import printable
from tunesmith.messages.catalogue import say
from tunesmith.reporting.comparison import figures_table, settings_table, winner_sentence
from tunesmith.reporting.run_list import status_words
from tunesmith.utils import formatting


def runs_table(rows: Sequence[dict[str, Any]], folder: str) -> str:
    """A line for each run."""
    if not rows:
        return say("There are no runs in {folder}. This makes one: tunesmith train FILE --out my-model", folder=folder)
    head = [
        say("run"),
        say("status"),
        say("model"),
        say("perplexity"),
        say("steps"),
        say("rate"),
        say("speed"),
        say("time"),
    ]
    cells = [
        [
            row["name"],
            status_words(row["status"]),
            _tail(row["model"]),
            _change(row),
            f"{row['steps']:,}"
            if row["steps"] == row["planned_steps"]
            else f"{row['steps']:,}/{row['planned_steps']:,}",
            f"{row['learning_rate']:g}",
            formatting.rate(row["tokens_per_s"]) if row["tokens_per_s"] else "\u2013",
            formatting.duration(row["duration_s"]),
        ]
        for row in rows
    ]
    return grid([head, *cells], right=(3, 4, 5, 6))


def comparison_table(result: dict[str, Any]) -> str:
    """Settings that differ, then what came of them, then who was best."""
    names = result["runs"]
    figures, settings = figures_table(result["figures"], names), settings_table(result["settings"], names)
    parts = [grid([figures["head"], *figures["rows"]])]
    if settings["rows"]:
        parts.append(grid([settings["head"], *settings["rows"]]))
    parts.append(winner_sentence(result))
    if result["report"]:
        parts.append(say("The page with curves and samples: {path}", path=result["report"]))
    else:
        parts.append(say("For curves and samples side by side: --out compared.html"))
    return "\n\n".join(parts)


def grid(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Columns side by side; characters that take two cells count twice."""
    cells = [[printable(cell).replace("\n", " ") for cell in row] for row in rows]
    widths = [max(cell_len(row[column]) for row in cells) for column in range(len(cells[0]))]
    lines = []
    for row in cells:
        padded = [
            " " * (width - cell_len(cell)) + cell if column in right else cell + " " * (width - cell_len(cell))
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def _change(row: dict[str, Any]) -> str:
    if row["perplexity"] is None:
        return "\u2013"
    before = formatting.perplexity(row["base_perplexity"]) if row["base_perplexity"] else "\u2013"
    return f"{before} \u2192 {formatting.perplexity(row['perplexity'])}"


def _tail(model: str) -> str:
    """The last folder of a path; ids of the hub as they are."""
    return model.rstrip("/").rsplit("/", 1)[-1] if model.count("/") > 1 or model.startswith("/") else model
