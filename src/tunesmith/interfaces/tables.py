"""Results as text for a person: plain enough to be piped, aligned enough to be read."""

import shlex
import unicodedata
from typing import Any

from rich.console import Console
from rich.text import Text

DELIMITER = "-" * 20


def evaluation_table(result: dict[str, Any]) -> str:
    """What `evaluate` found."""
    interval = result["confidence_interval"]
    rows = [
        ("perplexity", f"{result['perplexity']:.2f}"),
        ("  95 % interval", f"{interval[0]:.2f} to {interval[1]:.2f}" if interval else "needs two samples"),
        ("nats per token", f"{result['nats_per_token']:.4f}"),
        ("bits per byte", f"{result['bits_per_byte']:.4f}"),
        ("tokens", f"{result['tokens']:,} in {result['samples']:,} samples, {result['bytes']:,} bytes"),
        ("method", result["method"]),
    ]
    if result["trained_on_this"]:
        rows.append(("careful", "most of this text was trained on: the figures say how well it is remembered"))
    return aligned(rows)


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


def texts_block(texts: list[str]) -> str:
    """Texts one below the other, with a line between them where a text itself has several lines."""
    texts = [printable(text) for text in texts]
    separator = f"\n{DELIMITER}\n" if any("\n" in text for text in texts) else "\n"
    return separator.join(texts)


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
