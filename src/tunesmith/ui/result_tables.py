"""Show results as text: plain enough to be piped, aligned enough to be read."""

import shlex
from collections.abc import Sequence
from typing import Any

from rich.cells import cell_len

from tunesmith.data.cache import CacheEntry, CacheReport
from tunesmith.i18n import LazyString, say
from tunesmith.reporting.comparison import figures_table, settings_table, winner_sentence
from tunesmith.reporting.run_list import status_words
from tunesmith.ui.wrapping import aligned, grid, printable
from tunesmith.utils import formatting

SHOWN_CHARACTERS = 50
"""Of a sample, where it is named."""
LEAST_COLUMN = 9
"""Cells of a column of numbers."""

MAX_SHOWN_SOURCES = 3


FIGURES: dict[str, tuple[LazyString, str]] = {
    "perplexity": (LazyString("perplexity"), ".2f"),
    "loss": (LazyString("nats per token"), ".4f"),
    "bits_per_byte": (LazyString("bits per byte"), ".4f"),
    "bits_per_character": (LazyString("bits per character"), ".4f"),
}
"""What is measured, with its form."""


def evaluation_table(result: dict[str, Any], width: int | None = None) -> str:
    """Show what `evaluate` measured; long lines are wrapped to `width` cells."""
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
        remembered = say("most of this text was trained on: the numbers show how well it is memorized")
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
    """Show what `tokenizer train` made."""
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


SHOWN_WORDS = 8


def extension_table(result: dict[str, Any], width: int | None = None) -> str:
    """Show what `tokenizer extend` added, how the fit changed, and what to do next."""
    added = []
    if result["from_words"]:
        added.append(say("{count:,} for the words", count=result["from_words"]))
    if result["from_text"]:
        added.append(say("{count:,} from the text", count=result["from_text"]))
    if result["special_tokens"]:
        added.append(say("{count:,} special", count=result["special_tokens"]))
    rows = [
        (
            say("vocabulary"),
            say("{before:,} entries, now {now:,}", before=result["vocab_size_before"], now=result["vocab_size"]),
        ),
        (say("added"), ", ".join(added)),
        (say("for example"), printable("  ".join(result["examples"]))),
    ]
    if result["tokens_per_character"] is not None:
        before, now = result["tokens_per_character_before"], result["tokens_per_character"]
        rows.append(
            (
                say("fit"),
                say(
                    "{now:.2f} tokens a character, before {before:.2f}: {less:.0%} fewer tokens",
                    now=now,
                    before=before,
                    less=1 - now / before,
                ),
            )
        )
    rows.append(
        (
            say("new rows"),
            say(
                "{count:,} parameters, each row the mean of the tokens it replaces; text without new words computes "
                "as before",
                count=result["parameters_added"],
            ),
        )
    )
    several = result["several_tokens"]
    if several:
        shown = printable(", ".join(several[:SHOWN_WORDS])) + (", ..." if len(several) > SHOWN_WORDS else "")
        rows.append(
            (
                say("still several"),
                say(
                    "{words} ({count:,}): spaces, digits and signs always part tokens", words=shown, count=len(several)
                ),
            )
        )
    rows.append((say("written to"), result["out"]))
    command = shlex.join(["tunesmith", "train", "FILE", "--model", result["out"], "--out", "my-model"])
    return f"{aligned(rows, width)}\n\n{say('the new rows have to be trained; next:')}\n  {command}"


def runs_table(rows: Sequence[dict[str, Any]], folder: str) -> str:
    """Show one line for each run."""
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
            _perplexity_change(row),
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
    """Show results, settings that differ, and which run was best."""
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


def _perplexity_change(row: dict[str, Any]) -> str:
    if row["perplexity"] is None:
        return "\u2013"
    before = formatting.perplexity(row["base_perplexity"]) if row["base_perplexity"] else "\u2013"
    return f"{before} \u2192 {formatting.perplexity(row['perplexity'])}"


def _tail(model: str) -> str:
    """Last folder of a path; ids of the Hugging Face Hub unchanged."""
    return model.rstrip("/").rsplit("/", 1)[-1] if model.count("/") > 1 or model.startswith("/") else model


def cache_table(report: CacheReport) -> str:
    """Path and size, then a line for each entry, then what was removed."""
    lines = [
        say(
            "{path}: {size} of tokenized text, at most {limit} (TUNESMITH_CACHE_GB)",
            path=report.path,
            size=_cache_size(report.bytes),
            limit=_cache_size(report.max_bytes),
        )
    ]
    if report.removed or report.removed_bytes:
        lines.append(
            say("Removed: {count:,} entries, {size}", count=report.removed, size=_cache_size(report.removed_bytes))
        )
    if report.entries:
        head = [say("sources"), say("tokens"), say("size"), say("last used")]
        lines += ["", grid([head, *map(_cache_row, report.entries)], right=(1, 2))]
    return "\n".join(lines)


def _cache_row(entry: CacheEntry) -> list[str]:
    names = ", ".join(entry.sources[:MAX_SHOWN_SOURCES])
    n_more = len(entry.sources) - MAX_SHOWN_SOURCES
    if n_more > 0:
        names = say("{names} and {count:,} more", names=names, count=n_more)
    used = entry.last_used.replace("T", " ").removesuffix("+00:00")
    return [names, f"{entry.tokens:,}", _cache_size(entry.bytes), say("in use") if entry.in_use else f"{used} UTC"]


def _cache_size(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.2f} GB" if n_bytes >= 1e8 else f"{n_bytes / 1e6:.2f} MB"


def export_lines(result: dict[str, Any]) -> str:
    """Show the written files with their sizes, and what verified them."""
    lines = [f"{result['out']}: {result['to']}, {result['dtype']}"]
    lines += [f"  {name}: {size / 1e3:,.0f} kB" for name, size in result["files"].items()]
    if result["adapter"]:
        lines.append(say("the adapter {adapter} is merged into {base}", adapter=result["adapter"], base=result["base"]))
    found = result["verified"]
    if found["texts"]:
        lines.append(
            say(
                "verified with {by}: {equal_texts} of {texts} texts are the same, logits differ by at most "
                "{difference:.2g}",
                by=found["by"],
                equal_texts=found["equal_texts"],
                texts=found["texts"],
                difference=found["largest_logit_difference"],
            )
        )
    else:
        lines.append(
            say(
                "verified by reading it back with {by}: every weight is there, rounded by {difference:.2g} at most",
                by=found["by"],
                difference=found["largest_logit_difference"],
            )
        )
    return "\n".join(lines)


def import_lines(result: dict[str, Any]) -> str:
    """Show what was found, and what to do with it."""
    lines = [
        say(
            "{out}: {kind}, {parameters:,} parameters",
            out=result["out"],
            kind=result["kind"],
            parameters=result["parameters"],
        ),
        say(
            "{n_layer} layers, {n_embd} wide, {n_head} heads, {n_positions:,} positions, {vocab_size:,} tokens, "
            "{activation_function}",
            n_layer=result["n_layer"],
            n_embd=result["n_embd"],
            n_head=result["n_head"],
            n_positions=result["n_positions"],
            vocab_size=result["vocab_size"],
            activation_function=result["activation_function"],
        ),
        say("tokenizer: {tokenizer}", tokenizer=result["tokenizer"]),
        *result["notices"],
        say("read back, every bit the same; next: tunesmith generate {out}", out=result["out"]),
    ]
    return "\n".join(lines)


def push_lines(result: dict[str, Any]) -> str:
    """Show what was uploaded, and how others use it."""
    lines = [say("{url}: {count} files", url=result["url"], count=len(result["files"]))]
    lines += [f"  {name}: {size / 1e3:,.0f} kB" for name, size in result["files"].items()]
    return "\n".join([*lines, *result["notices"], say("use it with: tunesmith generate {repo}", repo=result["repo"])])
