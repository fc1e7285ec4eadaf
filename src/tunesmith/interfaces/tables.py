"""Results as text for a person: plain enough to be piped, aligned enough to be read."""

import shlex
import unicodedata
from typing import Any

from rich.cells import cell_len

from tunesmith.interfaces.wrapping import padded, wrapped
from tunesmith.messages.catalogue import Phrase, say

SHOWN_CHARACTERS = 50
"""Of a sample, where it is named."""
LEAST_COLUMN = 9
"""Cells of a column of figures."""


FIGURES: dict[str, tuple[Phrase, str]] = {
    "perplexity": (Phrase("perplexity"), ".2f"),
    "loss": (Phrase("nats per token"), ".4f"),
    "bits_per_byte": (Phrase("bits per byte"), ".4f"),
    "bits_per_character": (Phrase("bits per character"), ".4f"),
}
"""What is measured, with its form."""


def evaluation_table(result: dict[str, Any], width: int | None = None) -> str:
    """What `evaluate` found; in a terminal of `width` cells long lines are wrapped."""
    base = result["base"]
    rows = _compared(result, base) if base else _figures(result)
    counts = say(
        "{tokens:,} in {samples:,} samples, {n_bytes:,} bytes",
        tokens=result["tokens"],
        samples=result["samples"],
        n_bytes=result["bytes"],
    )
    rows += [(say("tokens"), counts), (say("method"), result["method"])]
    if result["overlaps_training_data"]:
        remembered = say("most of this text was trained on: the figures say how well it is remembered")
        rows.append((say("careful"), remembered))
    worst = [
        say(
            "  {nats:6.2f}  sample {number:,}: {begins}",
            nats=sample["loss"],
            number=sample["sample"],
            begins=_on_one_line(sample["text"]),
        )
        for sample in result["worst_samples"]
    ]
    copied = ["", *_novelty_lines(result["novelty"])] if result["novelty"] else []
    head = ["", say("it knows these worst (nats per token):")] if worst else []
    return "\n".join([aligned(rows, width), *head, *worst, *copied])


def _novelty_lines(novelty: dict[str, Any]) -> list[str]:
    written, held_out = novelty["written"], novelty["held_out"]
    columns = [(say("written"), say("by people"))]
    columns += [
        (f"{share:.1%}", f"{held_out['copied_share'][least]:.1%}") for least, share in written["copied_share"].items()
    ]
    longest = (written["longest"] or {"tokens": 0})["tokens"], (held_out["longest"] or {"tokens": 0})["tokens"]
    columns.append((f"{longest[0]:,}", f"{longest[1]:,}"))
    names = [
        say("copied from the training text"),
        *(say("  in {least} tokens in a row or more", least=least) for least in written["copied_share"]),
        say("  longest, in tokens"),
    ]
    cells = max(LEAST_COLUMN, *(cell_len(text) for pair in columns for text in pair))
    rows = [
        (name, "  ".join(" " * (cells - cell_len(text)) + text for text in pair))
        for name, pair in zip(names, columns, strict=True)
    ]
    lines = [aligned(rows)]
    if found := written["longest"]:
        lines.append(
            say(
                "  the longest is from {source}, sample {number:,}: {begins}",
                source=found["source"],
                number=found["sample"],
                begins=_on_one_line(found["text"]),
            )
        )
    lines.append(
        say(
            "  ({written:,} tokens in {texts:,} texts against {held_out:,} by people)",
            written=written["tokens"],
            texts=novelty["texts"],
            held_out=held_out["tokens"],
        )
    )
    return lines


def _figures(result: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [(str(name), f"{result[key]:{form}}") for key, (name, form) in FIGURES.items()]
    return [rows[0], (say("  95 % interval"), _interval(result["perplexity_ci95"], ".2f")), *rows[1:]]


def _compared(result: dict[str, Any], base: dict[str, Any]) -> list[tuple[str, str]]:
    """Base, tuned, and their difference with its interval, in columns."""
    lines = [("", say("base"), say("tuned"), say("difference (95 % interval)"))]
    for key, (name, form) in FIGURES.items():
        change = _change(result["difference"].get(key), form)
        lines.append((str(name), f"{base[key]:{form}}", f"{result[key]:{form}}", change))
        if key == "perplexity":
            before, after = (_interval(figures["perplexity_ci95"], form) for figures in (base, result))
            lines.append((say("  95 % interval"), before, after, ""))
    base_cells, tuned_cells = (max(cell_len(line[column]) for line in lines) for column in (1, 2))
    rows = [
        (
            name,
            f"{' ' * (base_cells - cell_len(before))}{before}  "
            f"{' ' * (tuned_cells - cell_len(after))}{after}  {change}".rstrip(),
        )
        for name, before, after, change in lines
    ]
    share = say("{share:.0%} of the samples", share=result["difference"]["win_rate"])
    return [*rows, (say("better on"), share)]


def _change(difference: dict[str, Any] | None, form: str) -> str:
    if difference is None:
        return ""
    interval = difference["ci95"]
    return f"{difference['value']:+{form}}" + (f" ({_interval(interval, '+' + form)})" if interval else "")


def _interval(interval: list[float] | None, form: str) -> str:
    if not interval:
        return say("needs two samples")
    return say("{low} to {high}", low=f"{interval[0]:{form}}", high=f"{interval[1]:{form}}")


def _on_one_line(text: str) -> str:
    shown = printable(" ".join(text.split()))
    return shown if len(shown) <= SHOWN_CHARACTERS else shown[:SHOWN_CHARACTERS].rstrip() + " ..."


def tokenizer_table(result: dict[str, Any], sources: tuple[str, ...]) -> str:
    """What `tokenizer train` made."""
    learned_from = say(
        "{samples:,} samples, {characters:,} characters", samples=result["samples"], characters=result["characters"]
    )
    rows = [
        (say("vocabulary"), say("{count:,} entries", count=result["vocab_size"])),
        (say("learned from"), learned_from),
        (say("fit"), say("{ratio:.2f} tokens a character", ratio=result["tokens_per_character"])),
        (say("written to"), result["out"]),
    ]
    command = shlex.join(["tunesmith", "prepare", *sources, "--tokenizer", result["out"]])
    return f"{aligned(rows)}\n\n{say('next:')}\n  {command}"


def aligned(rows: list[tuple[str, str]], width: int | None = None) -> str:
    """Two columns; in a terminal of `width` cells the second one is wrapped."""
    name_cells = max(cell_len(name) for name, _ in rows)
    lines = []
    for name, value in rows:
        parts = [value] if width is None else wrapped(value, width - name_cells - 2)
        lines += [
            f"{padded(start, name_cells)}  {part}".rstrip()
            for start, part in zip([name, *[""] * len(parts)], parts, strict=False)
        ]
    return "\n".join(lines)


def printable(text: str) -> str:
    """Text without the control characters that could drive a terminal."""
    return "".join(
        "\ufffd" if unicodedata.category(character) == "Cc" and character not in "\n\t" else character
        for character in text
    )
