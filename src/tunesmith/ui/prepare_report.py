"""Show what `prepare` found: sources, counts, lengths, a preview and warnings."""

import shutil
from typing import Any

from rich.cells import cell_len, set_cell_size

from tunesmith.data.segmentation import shown_separator
from tunesmith.data.split import VAL_METHODS
from tunesmith.i18n import say
from tunesmith.ui.wrapping import aligned, padded, printable, wrapped

SHOWN_SOURCES = 12
SHOWN_CHARACTERS = 30
BAR_WIDTH = 30
ENCODING_CELLS, LABEL_CELLS = 9, 18
EIGHTHS = " \u258f\u258e\u258d\u258c\u258b\u258a\u2589"


def lint_report(report: dict[str, Any]) -> str:
    """The report as text for the width of the terminal."""
    width = max(shutil.get_terminal_size().columns, 60)
    parts = [
        _sources(report["sources"], width),
        aligned(_counts(report), width),
        f"{say('tokens a sample')}\n{_histogram(report['length_histogram'])}",
    ]
    if report["preview"]:
        shown = "\n".join(_indented(text, width) for text in report["preview"])
        parts.append(f"{say('what the model sees (it predicts what is between the brackets)')}\n{shown}")
    if report["warnings"]:
        parts.append("\n".join(_indented(f"! {warning}", width) for warning in report["warnings"]))
    model = report["train_model"] or "MODEL"
    command = f"tunesmith train {report['train_with']} --model {model} --out my-model"
    parts.append(f"{say('next:')}\n  {command}")
    return "\n\n".join(parts)


def _sources(sources: list[dict[str, Any]], width: int) -> str:
    name_width = min(max(cell_len(source["name"]) for source in sources), width // 3)
    lines = []
    for source in sources[:SHOWN_SOURCES]:
        name = _shortened(printable(source["name"]), name_width)
        encoding = padded(source["encoding"] or say("binary"), ENCODING_CELLS)
        counted = say("{samples:>8,} samples", samples=source["samples"])
        divided = say("split on {border}", border=shown_separator(source["split_on"]))
        lines.append(f"{name}  {counted}  {encoding}  {divided}")
        lines.append(_indented(source["reason"], width, name_width + 2))
        if source["encoding"] not in {"", "utf-8"}:
            evidence = say("{encoding}: {reason}", encoding=source["encoding"], reason=source["encoding_reason"])
            lines.append(_indented(evidence, width, name_width + 2))
    if len(sources) > SHOWN_SOURCES:
        lines.append(say("... and {more} more files", more=len(sources) - SHOWN_SOURCES))
    return "\n".join(lines)


def _shortened(name: str, width: int) -> str:
    """A name in `width` terminal cells; of a longer one the end, which tells files of a folder apart."""
    if cell_len(name) <= width:
        return set_cell_size(name, width)
    while cell_len(name) >= width:
        name = name[1:]
    return set_cell_size(f"\u2026{name}", width)


def _counts(report: dict[str, Any]) -> list[tuple[str, str]]:
    dropped = report["dropped"]
    rows = [
        (
            say("samples"),
            say(
                "{samples:,}, of them {held_out:,} held out ({method})",
                samples=report["samples"],
                held_out=report["val_samples"],
                method=VAL_METHODS[report["val_method"]],
            ),
        ),
        (say("tokens"), say("{tokens:,} from {n_bytes:,} bytes", tokens=report["tokens"], n_bytes=report["bytes"])),
        (say("fit"), _fit(report)),
        (
            say("windows"),
            say(
                "{windows:,} of at most {context:,} tokens in an epoch",
                windows=report["windows"],
                context=report["context_length"],
            ),
        ),
        (
            say("updates"),
            say(
                "{updates:,} an epoch, from about {tokens:,} tokens each",
                updates=report["updates_per_epoch"],
                tokens=report["tokens_per_step"],
            ),
        ),
        (say("longest"), _longest(report["longest"][0])),
        (
            say("left out"),
            say(
                "{empty:,} empty samples, {undecodable:,} that do not decode",
                empty=dropped["empty"],
                undecodable=dropped["undecodable"],
            ),
        ),
        (say("duplicates"), _duplicates(report)),
    ]
    if report["prompt_tokens"]:
        given = say("{count:,} of the tokens are given, the others are learned", count=report["prompt_tokens"])
        rows.append((say("prompts"), given))
    if report["eot_markers"]:
        markers = say("{count:,} end-of-text markers in the text, taken as borders", count=report["eot_markers"])
        rows.append((say("markers"), markers))
    if set(report["weights"]) != {1.0}:
        weights = " ".join(f"{weight:g}" for weight in report["weights"])
        rows.append((say("weights of the sources"), say("{weights} times an epoch", weights=weights)))
    if report["skipped_files"]:
        skipped = report["skipped_files"]
        others = say("{count} files of other kinds: {first}", count=len(skipped), first=printable(skipped[0]))
        rows.append((say("not read"), others))
    return rows


def _longest(sample: dict[str, Any]) -> str:
    begins = " ".join(printable(sample["begins"]).split())
    return say("{tokens:,} tokens: {begins} ...", tokens=sample["tokens"], begins=begins[:SHOWN_CHARACTERS])


def _fit(report: dict[str, Any]) -> str:
    fit = say("{ratio:.2f} tokens a character", ratio=report["tokens_per_character"])
    if not report["new_to_tokenizer_share"]:
        return fit
    return say(
        "{fit}; {share:.1%} of the tokens are parts of characters that are new to the tokenizer",
        fit=fit,
        share=report["new_to_tokenizer_share"],
    )


def _duplicates(report: dict[str, Any]) -> str:
    nearly = report["near_duplicate_samples"]
    left_out = report["dropped"]["duplicates"]
    found = say(
        "{exact:,} exact, near ones not looked for (--dedupe near does)"
        if nearly is None
        else "{exact:,} exact, {nearly:,} more nearly so",
        exact=report["duplicate_samples"],
        nearly=nearly,
    )
    return say("{found}; {count:,} left out", found=found, count=left_out) if left_out else found


def _histogram(lengths: list[dict[str, int]]) -> str:
    most = max(part["samples"] for part in lengths)
    lines = []
    for part in lengths:
        eighths = round(part["samples"] / most * BAR_WIDTH * 8)
        bar = "\u2588" * (eighths // 8) + EIGHTHS[eighths % 8]
        label = say("{low} to {high}", low=f"{part['from_tokens']:,}", high=f"{part['to_tokens'] - 1:,}")
        blanks = " " * (LABEL_CELLS - cell_len(label))
        lines.append(f"  {blanks}{label}  {bar:<{BAR_WIDTH + 1}} {part['samples']:,}")
    return "\n".join(lines)


def _indented(text: str, width: int, indent: int = 2) -> str:
    one_line = " / ".join(line.strip() for line in printable(text).splitlines() if line.strip())
    return "\n".join(" " * indent + line for line in wrapped(one_line, width - indent))
