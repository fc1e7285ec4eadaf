"""The cache as a table for a terminal."""

from tunesmith.data.cache import CacheEntry, CacheReport
from tunesmith.interfaces.run_tables import grid
from tunesmith.messages.catalogue import say

MAX_SOURCES = 3


def cache_table(report: CacheReport) -> str:
    """Path and size, then a line for each entry, then what was removed."""
    lines = [
        say(
            "{path}: {size} of tokenized text, at most {limit} (TUNESMITH_CACHE_GB)",
            path=report.path,
            size=_size(report.bytes),
            limit=_size(report.max_bytes),
        )
    ]
    if report.removed or report.removed_bytes:
        lines.append(say("Removed: {count:,} entries, {size}", count=report.removed, size=_size(report.removed_bytes)))
    if report.entries:
        head = [say("sources"), say("tokens"), say("size"), say("last used")]
        lines += ["", grid([head, *map(_row, report.entries)], right=(1, 2))]
    return "\n".join(lines)


def _row(entry: CacheEntry) -> list[str]:
    names = ", ".join(entry.sources[:MAX_SOURCES])
    n_more = len(entry.sources) - MAX_SOURCES
    if n_more > 0:
        names = say("{names} and {count:,} more", names=names, count=n_more)
    used = entry.last_used.replace("T", " ").removesuffix("+00:00")
    return [names, f"{entry.tokens:,}", _size(entry.bytes), say("in use") if entry.in_use else f"{used} UTC"]


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.2f} GB" if n_bytes >= 1e8 else f"{n_bytes / 1e6:.2f} MB"
