"""Amounts as a person writes them, in the language that is spoken."""

import math

from tunesmith.i18n import say

JOULES_PER_WATT_HOUR = 3600.0


def duration(seconds: float) -> str:
    """For example 48 s, 12 min 5 s, 3 h 20 min."""
    whole = round(seconds)
    if whole < 60:
        return say("{seconds} s", seconds=whole)
    if whole < 3600:
        return say("{minutes} min {seconds} s", minutes=whole // 60, seconds=whole % 60)
    return say("{hours} h {minutes} min", hours=whole // 3600, minutes=whole % 3600 // 60)


def memory(count_bytes: float) -> str:
    """For example 512 MiB, 11.2 GiB (1 GiB = 1024 MiB)."""
    return f"{count_bytes / 2**30:.1f} GiB" if count_bytes >= 2**30 else f"{count_bytes / 2**20:.0f} MiB"


def energy(joules: float) -> str:
    """For example 0.4 Wh, 1.32 kWh."""
    watt_hours = joules / JOULES_PER_WATT_HOUR
    return f"{watt_hours / 1000:.2f} kWh" if watt_hours >= 1000 else f"{watt_hours:.1f} Wh"


def rate(tokens_per_s: float) -> str:
    """For example 1,234 tokens/s."""
    return say("{count:,.0f} tokens/s", count=tokens_per_s)


def perplexity(value: float) -> str:
    """With two decimals while those say something."""
    if not math.isfinite(value):
        return "\u2013"
    return f"{value:,.2f}" if value < 1000 else f"{value:,.0f}"
