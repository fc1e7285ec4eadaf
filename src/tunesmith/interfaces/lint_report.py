"""What `prepare` found, for a person: sources, counts, lengths drawn, warnings, and the first samples."""

import shutil
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from tunesmith.interfaces.tables import aligned, printable

SHOWN_SOURCES = 12
SHOWN_CHARACTERS = 30
BAR_WIDTH = 30
EIGHTHS = " \u258f\u258e\u258d\u258c\u258b\u258a\u2589"


def lint_report(report: dict[str, Any]) -> str:
    """The report as text for the width of the terminal."""
    width = max(shutil.get_terminal_size().columns, 60)
    parts = [
        _sources(report["sources"], width),
        aligned(_counts(report), width),
        "tokens a sample\n" + _histogram(report["lengths"]),
    ]
    if report["preview"]:
        shown = "\n".join(_indented(text, width) for text in report["preview"])
        parts.append(f"what the model sees (it predicts what stands between the brackets)\n{shown}")
    if report["warnings"]:
        parts.append("\n".join(_indented(f"! {warning}", width) for warning in report["warnings"]))
    model = report["train_model"] or "MODEL"
    parts.append(f"next:\n  tunesmith train {report['train_with']} --model {model} --out my-model")
    return "\n\n".join(parts)


def _sources(sources: list[dict[str, Any]], width: int) -> str:
    name_width = min(max(cell_len(source["name"]) for source in sources), width // 3)
    lines = []
    for source in sources[:SHOWN_SOURCES]:
        name = _shortened(printable(source["name"]), name_width)
        encoding = source["encoding"] or "binary"
        lines.append(f"{name}  {source['samples']:>8,} samples  {encoding:<9}  split on {source['split_on']!s}")
        lines.append(_indented(source["reason"], width, name_width + 2))
    if len(sources) > SHOWN_SOURCES:
        lines.append(f"... and {len(sources) - SHOWN_SOURCES} more files")
    return "\n".join(lines)


def _shortened(name: str, width: int) -> str:
    """A name in so many terminal cells; of a longer one the end, which tells files of a folder apart."""
    if cell_len(name) <= width:
        return set_cell_size(name, width)
    while cell_len(name) >= width:
        name = name[1:]
    return set_cell_size(f"\u2026{name}", width)


def _counts(report: dict[str, Any]) -> list[tuple[str, str]]:
    dropped = report["dropped"]
    rows = [
        ("samples", f"{report['samples']:,}, of them {report['val_samples']:,} kept apart ({report['val_by']})"),
        ("tokens", f"{report['tokens']:,} from {report['bytes']:,} bytes"),
        ("fit", f"{report['tokens_per_character']:.2f} tokens a character{_parts(report)}"),
        ("windows", f"{report['windows']:,} of at most {report['context_tokens']:,} tokens in an epoch"),
        ("updates", f"{report['updates_per_epoch']:,} an epoch, from about {report['tokens_per_step']:,} tokens each"),
        ("longest", _longest(report["longest"][0])),
        ("left out", f"{dropped['empty']:,} empty samples, {dropped['undecodable']:,} that do not decode"),
        ("duplicates", _duplicates(report)),
    ]
    if report["prompt_tokens"]:
        rows.append(("prompts", f"{report['prompt_tokens']:,} of the tokens are given, the others are learned"))
    if report["end_of_text_markers"]:
        rows.append(("markers", f"{report['end_of_text_markers']:,} end-of-text markers in the text, taken as borders"))
    if set(report["weights"]) != {1.0}:
        rows.append(("weights", " ".join(f"{weight:g}" for weight in report["weights"]) + " times an epoch"))
    if report["skipped_files"]:
        rows.append(("not read", f"{len(report['skipped_files'])} files of other kinds: {report['skipped_files'][0]}"))
    return rows


def _longest(sample: dict[str, Any]) -> str:
    begins = " ".join(printable(sample["begins"]).split())
    return f"{sample['tokens']:,} tokens: {begins[:SHOWN_CHARACTERS]} ..."


def _parts(report: dict[str, Any]) -> str:
    share = report["new_to_tokenizer_share"]
    return f"; {share:.1%} of the tokens are parts of characters that are new to the tokenizer" if share else ""


def _duplicates(report: dict[str, Any]) -> str:
    nearly = report["near_duplicate_samples"]
    near = "near ones not looked for (--dedupe near does)" if nearly is None else f"{nearly:,} more nearly so"
    left_out = report["dropped"]["duplicates"]
    return f"{report['duplicate_samples']:,} exact, {near}" + (f"; {left_out:,} left out" if left_out else "")


def _histogram(lengths: list[dict[str, int]]) -> str:
    most = max(part["samples"] for part in lengths)
    lines = []
    for part in lengths:
        eighths = round(part["samples"] / most * BAR_WIDTH * 8)
        bar = "\u2588" * (eighths // 8) + EIGHTHS[eighths % 8]
        label = f"{part['from_tokens']:,} to {part['to_tokens'] - 1:,}"
        lines.append(f"  {label:>18}  {bar:<{BAR_WIDTH + 1}} {part['samples']:,}")
    return "\n".join(lines)


def _indented(text: str, width: int, indent: int = 2) -> str:
    one_line = " / ".join(line.strip() for line in printable(text).splitlines() if line.strip())
    lines = Text(one_line).wrap(Console(width=width), width - indent)
    return "\n".join(" " * indent + line.plain.rstrip() for line in lines)
