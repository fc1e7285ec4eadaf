"""Read samples from files: nothing is silently cut, dropped, or decoded as another encoding.

What was decided for a file and what was left out of it is counted in its `SourceReport`.
"""

import io
import lzma
import math
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, compress, islice
from typing import Any, Literal, TypeVar

from tunesmith.config import ReadingConfig, TextConfig
from tunesmith.data.encoding import DetectedEncoding, bad_byte, check_encoding, detect_encoding
from tunesmith.data.hf_datasets import HFDataset
from tunesmith.data.segmentation import AUTO, DOCUMENT, SampleBoundary, TextBatch, detect_boundary, split_text
from tunesmith.data.source_files import ARROW_KINDS, TABLE_KINDS, SourceFile
from tunesmith.data.table_readers import (
    ROWS_LOOKED_AT,
    ChosenColumns,
    TableColumns,
    choose_columns,
    looks_like_table,
    read_head,
    samples_of,
    table_rows,
    text_table_kind,
)
from tunesmith.errors import UserError
from tunesmith.i18n import LazyString

CHARACTERS_AT_A_TIME = 1 << 21
HEAD_CHARACTERS = 1 << 18
UNDECODABLE = re.compile("[\ud800-\udfff]")
"""What surrogateescape puts in place of a byte that did not decode; also half of a character in a JSON escape."""
SHOWN_CHARACTERS = 20
DAMAGED = (EOFError, OSError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, tarfile.TarError, NotImplementedError)
"""Raised by readers of compressed files and archives; the last one for unknown kinds of compression."""

T = TypeVar("T")
BadBytes = Literal["strict", "replace", "skip"]
Dedupe = Literal["none", "exact", "near"]


@dataclass(frozen=True)
class ReadingOptions:
    """How to read sources.

    Attributes:
        split_on: auto, line, blank-line, document, or a literal separator.
        columns: of a table that make a sample.
        encoding: auto, or a name that overrides detection.
        encoding_errors: what to do with bytes that do not decode.
        dedupe: which repeated samples are left out.
        weights: how often each SOURCE is seen in an epoch; empty for once.
    """

    split_on: str = AUTO
    columns: TableColumns = field(default_factory=TableColumns)
    encoding: str = "auto"
    encoding_errors: BadBytes = "strict"
    dedupe: Dedupe = "none"
    weights: tuple[float, ...] = ()


def reading_options(config: TextConfig) -> ReadingOptions:
    """Convert the flags of a command.

    Raises:
        UserError: for a template without both parts in order, or weights that do not match the sources.
    """
    template = escapes(config.template)
    if not 0 <= template.find("{prompt}") < template.find("{completion}"):
        raise UserError(
            "--template {template!r} does not contain {{prompt}} followed by {{completion}}",
            hint="for example --template 'Q: {{prompt}}\\nA: {{completion}}'",
            template=config.template,
        )
    columns = TableColumns(config.text_field, config.prompt_field, config.completion_field, template)
    dedupe, weights = (config.dedupe, config.source_weights) if isinstance(config, ReadingConfig) else ("none", ())
    if weights and (len(weights) != len(config.sources) or not all(0 < weight < math.inf for weight in weights)):
        raise UserError(
            "--source-weights {weights} does not give each of the {n_sources} sources a number above 0",
            hint="--source-weights 2 0.5 shows the first source twice in an epoch and half of the second",
            weights=" ".join(map(str, weights)),
            n_sources=len(config.sources),
        )
    return ReadingOptions(config.split_on, columns, config.encoding, config.encoding_errors, dedupe, weights)


def escapes(text: str) -> str:
    r"""Replace \n and \t, which are hard to type in a shell."""
    return text.replace("\\n", "\n").replace("\\t", "\t")


@dataclass
class SourceReport:
    """What was decided for a file and what was found in it.

    Attributes:
        name: of the file.
        sha256: of its bytes as stored.
        encoding: it was decoded with; "" for tables that carry their own.
        split_on: sample boundary.
        reason: for it; stored with the tokens for readers of any language.
        columns: of a table that are read.
        unused_columns: of a table that are left out.
        samples: non-empty samples.
        empty_samples: without a visible character, left out.
        eot_markers: end-of-text markers in the text; each is a sample boundary.
        replaced_bytes: that did not decode and became U+FFFD.
        undecodable_samples: left out because of such bytes.
        encoding_reason: the evidence for the encoding.
    """

    name: str
    sha256: str
    encoding: str
    split_on: str
    reason: LazyString
    columns: tuple[str, ...] = ()
    unused_columns: tuple[str, ...] = ()
    samples: int = 0
    empty_samples: int = 0
    eot_markers: int = 0
    replaced_bytes: int = 0
    undecodable_samples: int = 0
    encoding_reason: LazyString = field(default_factory=lambda: LazyString("the format has its own"))


def open_source(
    file: SourceFile | HFDataset, options: ReadingOptions, *, end_of_text: str
) -> tuple[SourceReport, Iterator[TextBatch]]:
    """Decide how to read a file, and read it.

    Returns:
        The report, whose counts grow while the second part is consumed, and the non-empty texts in batches.

    Raises:
        UserError: here or while reading, for content that cannot be read as it should.
    """
    if isinstance(file, HFDataset):
        chosen, samples = _table_samples(file, file.rows(), options.columns)
        report = SourceReport(file.name, file.sha256, "", "row", _why_row(chosen), chosen.used, chosen.unused)
        return report, _cleaned(samples, report, options, end_of_text)
    detected = _encoding(file, options)
    encoding = detected.name
    errors = "strict" if options.encoding_errors == "strict" else "surrogateescape"
    kind = file.kind
    if kind == ".txt" and options.split_on == AUTO:
        kind = _guard(file, partial(_kind_of_text, file, encoding), encoding)
    if kind in TABLE_KINDS:
        table = replace(file, kind=kind)
        rows = table_rows(table, encoding, errors)
        chosen, samples = _guard(file, partial(_table_samples, table, rows, options.columns), encoding)
        report = SourceReport(file.name, file.sha256, encoding, "row", _why_row(chosen), chosen.used, chosen.unused)
    else:
        boundary = _boundary(file, encoding, options)
        samples = split_text(_pieces(file, encoding, errors), boundary.split_on)
        if options.encoding_errors == "skip":
            samples = join_partials(samples)
        report = SourceReport(file.name, file.sha256, encoding, boundary.split_on, boundary.reason)
    report.encoding_reason = detected.reason
    return report, _guarded(file, _cleaned(samples, report, options, end_of_text), encoding)


def _table_samples(
    file: SourceFile | HFDataset, rows: Iterator[dict[str, Any]], columns: TableColumns
) -> tuple[ChosenColumns, Iterator[TextBatch]]:
    first = list(islice(rows, ROWS_LOOKED_AT))
    chosen = choose_columns(file, first, columns)
    return chosen, samples_of(file, chain(first, rows), chosen, columns.template)


def _why_row(columns: ChosenColumns) -> LazyString:
    used, unused = ", ".join(map(repr, columns.used)), ", ".join(map(repr, columns.unused))
    if not unused:
        return LazyString("a table: one row is one sample, from {columns}", {"columns": used})
    return LazyString(
        "a table: one row is one sample, from {columns}; not read: {unused}", {"columns": used, "unused": unused}
    )


def _kind_of_text(file: SourceFile, encoding: str) -> str:
    """Return the kind of a .txt file: that of a table, if it is one.

    Raises:
        UserError: if it looks like a table, and nothing says which column is the text.
    """
    with io.TextIOWrapper(file.open(), encoding, errors="replace") as stream:
        head = read_head(stream)
    kind = text_table_kind(head)
    if not kind and looks_like_table(head):
        raise UserError(
            "{path} looks like a table: its first line names columns, and all lines have as many fields",
            hint="rename it to .csv and name the column (--text-field), or learn lines as they are (--split-on line)",
            path=file.path,
        )
    return kind or file.kind


def join_partials(batches: Iterator[TextBatch]) -> Iterator[TextBatch]:
    """Join the parts of long documents; each document has to fit into memory."""
    begun: list[str] = []
    for batch in batches:
        first, *rest = batch.texts
        texts = ["".join([*begun, first]) if rest or not batch.is_partial else first, *rest]
        begun = [*([] if rest else begun), texts.pop()] if batch.is_partial else []
        if texts:
            yield TextBatch(texts, batch.prompt_characters)


def _encoding(file: SourceFile, options: ReadingOptions) -> DetectedEncoding:
    if file.kind in ARROW_KINDS:
        return DetectedEncoding("", LazyString("the format has its own"))
    if options.encoding != "auto":
        return DetectedEncoding(check_encoding(options.encoding), LazyString("set by user"))
    return _guard(file, lambda: detect_encoding(file), "")


def _boundary(file: SourceFile, encoding: str, options: ReadingOptions) -> SampleBoundary:
    if options.split_on != AUTO:
        return SampleBoundary(escapes(options.split_on), LazyString("set by user"))
    if file.kind == ".md":
        return SampleBoundary(DOCUMENT, LazyString("a Markdown file is one text"))
    with io.TextIOWrapper(file.open(), encoding, errors="replace") as stream:
        return detect_boundary(stream.read(HEAD_CHARACTERS))


def _pieces(file: SourceFile, encoding: str, errors: str) -> Iterator[str]:
    """Yield the text in pieces; LF, CRLF and CR all become LF."""
    with io.TextIOWrapper(file.open(), encoding, errors) as stream:
        while piece := stream.read(CHARACTERS_AT_A_TIME):
            yield piece


def _cleaned(
    batches: Iterator[TextBatch], report: SourceReport, options: ReadingOptions, end_of_text: str
) -> Iterator[TextBatch]:
    """Leave out empty samples and undecodable bytes, split at end-of-text markers; count all of it."""
    is_continued = False  # a part of a document that has begun is kept whatever it contains
    for batch in batches:
        texts = batch.texts
        if options.encoding_errors == "replace":
            texts = replace_undecodable(texts, report)
        joined = "\n".join(texts)
        if options.encoding_errors == "strict":
            _check_surrogates(joined, report)
        if end_of_text in joined:
            report.eot_markers += sum(text.count(end_of_text) for text in texts)
            if not batch.prompt_characters:  # a pair is always one sample
                texts = [part for text in texts for part in text.split(end_of_text)]
        keep = list(map(bool, map(str.strip, texts)))
        keep[0] = keep[0] or is_continued
        keep[-1] = keep[-1] or batch.is_partial
        report.empty_samples += keep.count(False)
        if options.encoding_errors == "skip":
            bad = [bool(UNDECODABLE.search(text)) for text in texts]
            report.undecodable_samples += sum(bad)
            keep = [good and not damaged for good, damaged in zip(keep, bad, strict=True)]
        is_continued = batch.is_partial
        report.samples += sum(keep) - batch.is_partial
        if all(keep):
            yield TextBatch(texts, batch.prompt_characters, batch.is_partial)
        elif any(keep):
            prompts = list(compress(batch.prompt_characters, keep))
            yield TextBatch(list(compress(texts, keep)), prompts, batch.is_partial)


def _check_surrogates(text: str, report: SourceReport) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        before = text[max(error.start - SHOWN_CHARACTERS, 0) : error.start]
        raise UserError(
            "{name} contains half a character (\\u{code:04x}) after {before!r}",
            hint="a program cut the text there; --encoding-errors replace or skip continues without it",
            name=report.name,
            code=ord(text[error.start]),
            before=before,
        ) from None


def replace_undecodable(texts: list[str], report: SourceReport) -> list[str]:
    """Replace what did not decode by U+FFFD, and count it."""
    replaced = []
    for text in texts:
        good, count = UNDECODABLE.subn("\ufffd", text)
        report.replaced_bytes += count
        replaced.append(good)
    return replaced


def _guarded(file: SourceFile, batches: Iterator[TextBatch], encoding: str) -> Iterator[TextBatch]:
    while batch := _guard(file, lambda: next(batches, None), encoding):
        yield batch


def _guard(file: SourceFile, read: Callable[[], T], encoding: str) -> T:
    try:
        return read()
    except UnicodeDecodeError:
        raise bad_byte(file, encoding) from None
    except DAMAGED as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise OSError(error.errno, error.strerror, error.filename or str(file.path)) from None
        raise UserError(
            "{path} cannot be decompressed: {error}",
            hint="the file is damaged or cut off; get it again",
            path=file.path,
            error=error or type(error).__name__,
        ) from None
