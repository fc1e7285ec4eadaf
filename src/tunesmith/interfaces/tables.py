"""Results as text for a person: plain enough to be piped, aligned enough to be read."""

import shlex
import unicodedata
from typing import Any

from rich.console import Console
from rich.text import Text

SHOWN_CHARACTERS = 50
"""Of a sample, where it is named."""


def evaluation_table(result: dict[str, Any], width: int | None = None) -> str:
    """What `evaluate` found; in a terminal of `width` cells long lines are wrapped."""
    base = result["base"]
    rows = _compared(result, base) if base else _figures(result)
    rows += [("tokens", f"{result['tokens']:,} in {result['samples']:,} samples, {result['bytes']:,} bytes")]
    rows += [("method", result["method"])]
    if result["trained_on_this"]:
        rows.append(("careful", "most of this text was trained on: the figures say how well it is remembered"))
    worst = [
        f"  {sample['nats_per_token']:6.2f}  sample {sample['sample']:,}: {_on_one_line(sample['text'])}"
        for sample in result["worst"]
    ]
    copied = ["", *_novelty_lines(result["novelty"])] if result["novelty"] else []
    return "\n".join(
        [aligned(rows, width), *(["", "it knows these worst (nats per token):", *worst] if worst else []), *copied]
    )


def _novelty_lines(novelty: dict[str, Any]) -> list[str]:
    written, held_out = novelty["written"], novelty["held_out"]
    rows = [("copied from the training text", f"{'written':>9}  {'by people':>9}")]
    rows += [
        (f"  in {least} tokens in a row or more", f"{share:>9.1%}  {held_out['copied_share'][least]:>9.1%}")
        for least, share in written["copied_share"].items()
    ]
    longest = (written["longest"] or {"tokens": 0})["tokens"], (held_out["longest"] or {"tokens": 0})["tokens"]
    rows.append(("  longest, in tokens", "  ".join(f"{tokens:>9,}" for tokens in longest)))
    lines = [aligned(rows)]
    if found := written["longest"]:
        lines.append(
            f"  the longest is from {found['source']}, sample {found['sample']:,}: {_on_one_line(found['text'])}"
        )
    lines.append(
        f"  ({written['tokens']:,} tokens in {novelty['texts']:,} texts against {held_out['tokens']:,} by people)"
    )
    return lines


def _figures(result: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        ("perplexity", f"{result['perplexity']:.2f}"),
        ("  95 % interval", _interval(result["confidence_interval"], ".2f")),
        ("nats per token", f"{result['nats_per_token']:.4f}"),
        ("bits per byte", f"{result['bits_per_byte']:.4f}"),
        ("bits per character", f"{result['bits_per_character']:.4f}"),
    ]


def _compared(result: dict[str, Any], base: dict[str, Any]) -> list[tuple[str, str]]:
    """Base, tuned, and their difference with its interval, in columns."""
    lines = [("", "base", "tuned", "difference (95 % interval)")]
    names = (("perplexity", ".2f"), ("nats_per_token", ".4f"), ("bits_per_byte", ".4f"), ("bits_per_character", ".4f"))
    for name, form in names:
        difference = result["difference"].get(name)
        lines.append(
            (name.replace("_", " "), f"{base[name]:{form}}", f"{result[name]:{form}}", _change(difference, form))
        )
        if name == "perplexity":
            before, after = (_interval(figures["confidence_interval"], form) for figures in (base, result))
            lines.append(("  95 % interval", before, after, ""))
    base_width, tuned_width = (max(len(line[column]) for line in lines) for column in (1, 2))
    rows = [
        (name, f"{before:>{base_width}}  {after:>{tuned_width}}  {change}".rstrip())
        for name, before, after, change in lines
    ]
    return [*rows, ("better on", f"{result['difference']['better_samples']:.0%} of the samples")]


def _change(difference: dict[str, Any] | None, form: str) -> str:
    if difference is None:
        return ""
    interval = difference["confidence_interval"]
    return f"{difference['value']:+{form}}" + (f" ({interval[0]:+{form}} to {interval[1]:+{form}})" if interval else "")


def _interval(interval: list[float] | None, form: str) -> str:
    return f"{interval[0]:{form}} to {interval[1]:{form}}" if interval else "needs two samples"


def _on_one_line(text: str) -> str:
    shown = printable(" ".join(text.split()))
    return shown if len(shown) <= SHOWN_CHARACTERS else shown[:SHOWN_CHARACTERS].rstrip() + " ..."


def tokenizer_table(result: dict[str, Any], sources: tuple[str, ...]) -> str:
    """What `tokenizer train` made."""
    rows = [
        ("vocabulary", f"{result['vocab_size']:,} entries"),
        ("learned from", f"{result['samples']:,} samples, {result['characters']:,} characters"),
        ("fit", f"{result['tokens_per_character']:.2f} tokens a character"),
        ("written to", result["out"]),
    ]
    command = shlex.join(["tunesmith", "prepare", *sources, "--tokenizer", result["out"]])
    return f"{aligned(rows)}\n\nnext:\n  {command}"


def aligned(rows: list[tuple[str, str]], width: int | None = None) -> str:
    """Two columns; in a terminal of `width` cells the second one is wrapped at words."""
    name_width = max(len(name) for name, _ in rows)
    lines = []
    for name, value in rows:
        parts = [value] if width is None else _wrapped(value, width - name_width - 2)
        lines += [
            f"{start:<{name_width}}  {part}" for start, part in zip([name, *[""] * len(parts)], parts, strict=False)
        ]
    return "\n".join(lines)


def _wrapped(text: str, width: int) -> list[str]:
    return [line.plain.rstrip() for line in Text(text).wrap(Console(width=width), width)]


def printable(text: str) -> str:
    """Text without the control characters that could drive a terminal."""
    return "".join(
        "\ufffd" if unicodedata.category(character) == "Cc" and character not in "\n\t" else character
        for character in text
    )


def duration(seconds: float) -> str:
    """For example 48 s, 12 min 5 s, 3 h 20 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def mebibytes(count: int) -> str:
    """For example 512 MiB, 11.2 GiB (1 GiB = 1024 MiB)."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
