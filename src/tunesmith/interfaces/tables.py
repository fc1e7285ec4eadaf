"""Results as text for a person: plain enough to be piped, aligned enough to be read."""

import unicodedata
from typing import Any

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


def aligned(rows: list[tuple[str, str]]) -> str:
    """Two columns."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


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
