"""Files into samples: one text after another, with nothing silently cut, dropped, or read as another encoding.

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
from dataclasses import dataclass, field
from itertools import compress
from typing import Literal, TypeVar

from tunesmith.config import ReadingConfig, TextConfig
from tunesmith.data.encoding import bad_byte, detect_encoding, known_encoding
from tunesmith.data.hub_datasets import HubDataset
from tunesmith.data.samples import SampleList, without_parts
from tunesmith.data.source_files import TABLE_KINDS, SourceFile
from tunesmith.data.splitting import AUTO, Border, choose_split, split_text
from tunesmith.data.tables import Fields, read_table, samples_of
from tunesmith.errors import UserError
from tunesmith.messages.catalogue import Phrase

CHARACTERS_AT_A_TIME = 1 << 21
HEAD_CHARACTERS = 1 << 18
UNDECODABLE = re.compile("[\ud800-\udfff]")
"""What Python's surrogateescape puts where a byte did not decode, or half of a character in a JSON escape."""
SHOWN_CHARACTERS = 20
DAMAGED = (EOFError, OSError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, tarfile.TarError, NotImplementedError)
"""What readers of compressed files and archives raise; the last one for kinds of compression they do not know."""

T = TypeVar("T")
BadBytes = Literal["stop", "replace", "skip-sample"]
Dedupe = Literal["none", "exact", "near"]


@dataclass(frozen=True)
class ReadingOptions:
    """How to read sources.

    Attributes:
        split_on: auto, line, blank-line, document, or a literal border.
        fields: of a table that make a sample.
        encoding: auto, or a name that overrules detection.
        on_bad_bytes: what to do with bytes that do not decode.
        dedupe: which repeated samples are left out.
        weights: how often each SOURCE is seen in an epoch; empty for once.
    """

    split_on: str = AUTO
    fields: Fields = field(default_factory=Fields)
    encoding: str = "auto"
    on_bad_bytes: BadBytes = "stop"
    dedupe: Dedupe = "none"
    weights: tuple[float, ...] = ()


def reading_options(config: TextConfig) -> ReadingOptions:
    """What the flags of a verb ask for.

    Raises:
        UserError: for a template that does not hold both parts in order.
    """
    template = escapes(config.template)
    if not 0 <= template.find("{prompt}") < template.find("{completion}"):
        raise UserError(
            "--template {template!r} does not hold {{prompt}} and, behind it, {{completion}}",
            hint="for example --template 'Q: {{prompt}}\\nA: {{completion}}'",
            template=config.template,
        )
    fields = Fields(config.text_field, config.prompt_field, config.completion_field, template)
    dedupe, weights = (config.dedupe, config.weights) if isinstance(config, ReadingConfig) else ("none", ())
    if weights and (len(weights) != len(config.sources) or not all(0 < weight < math.inf for weight in weights)):
        raise UserError(
            "--weights {weights} does not give each of the {n_sources} sources a number above 0",
            hint="--weights 2 0.5 shows the first source twice in an epoch and half of the second",
            weights=" ".join(map(str, weights)),
            n_sources=len(config.sources),
        )
    return ReadingOptions(config.split_on, fields, config.encoding, config.on_bad_bytes, dedupe, weights)


def escapes(text: str) -> str:
    """What a shell makes hard to type."""
    return text.replace("\\n", "\n").replace("\\t", "\t")


@dataclass
class SourceReport:
    """What was decided for a file and what was found in it.

    Attributes:
        name: of the file.
        sha256: of its bytes as stored.
        encoding: it was read in; "" for tables that carry their own.
        split_on: where its samples end.
        reason: why; kept with the tokens for readers of any language.
        samples: that are not empty.
        empty: samples without a visible character, left out.
        markers: end-of-text markers that stood in the text; each is a border.
        replaced_bytes: bytes that did not decode and became U+FFFD.
        skipped_samples: samples left out because of such bytes.
    """

    name: str
    sha256: str
    encoding: str
    split_on: str
    reason: Phrase
    samples: int = 0
    empty: int = 0
    markers: int = 0
    replaced_bytes: int = 0
    skipped_samples: int = 0


def open_source(
    file: SourceFile | HubDataset, options: ReadingOptions, *, end_of_text: str
) -> tuple[SourceReport, Iterator[SampleList]]:
    """Decide how to read a file, and read it.

    Returns:
        The report, whose counts grow while the second part is consumed: non-empty texts, a list at a time.

    Raises:
        UserError: here or while reading, for what cannot be read as it should.
    """
    if isinstance(file, HubDataset):
        report = SourceReport(file.name, file.sha256, "", "row", Phrase("a dataset of the hub: one row is one sample"))
        return report, _cleaned(samples_of(file, file.rows(), options.fields), report, options, end_of_text)
    encoding = _encoding(file, options)
    errors = "strict" if options.on_bad_bytes == "stop" else "surrogateescape"
    if file.kind in TABLE_KINDS:
        split = Border("row", Phrase("a table: one row is one sample"))
        samples = read_table(file, encoding, errors, options.fields)
    else:
        split = _split(file, encoding, options)
        samples = split_text(_pieces(file, encoding, errors), split.split_on)
        if options.on_bad_bytes == "skip-sample":
            samples = without_parts(samples)
    report = SourceReport(file.name, file.sha256, encoding, split.split_on, split.reason)
    return report, _guarded(file, _cleaned(samples, report, options, end_of_text), encoding)


def _encoding(file: SourceFile, options: ReadingOptions) -> str:
    if file.kind in {".parquet", ".arrow"}:
        return ""
    if options.encoding != "auto":
        return known_encoding(options.encoding)
    return _guard(file, lambda: detect_encoding(file), "")


def _split(file: SourceFile, encoding: str, options: ReadingOptions) -> Border:
    if options.split_on != AUTO:
        return Border(escapes(options.split_on), Phrase("asked for"))
    if file.kind == ".md":
        return Border("document", Phrase("a Markdown file is one text"))
    with io.TextIOWrapper(file.open(), encoding, errors="replace") as stream:
        return choose_split(stream.read(HEAD_CHARACTERS))


def _pieces(file: SourceFile, encoding: str, errors: str) -> Iterator[str]:
    """The text in pieces; LF, CRLF and CR all become LF."""
    with io.TextIOWrapper(file.open(), encoding, errors) as stream:
        while piece := stream.read(CHARACTERS_AT_A_TIME):
            yield piece


def _cleaned(
    lists: Iterator[SampleList], report: SourceReport, options: ReadingOptions, end_of_text: str
) -> Iterator[SampleList]:
    """Without empty samples and bytes that did not decode, split at end-of-text markers; all of it counted."""
    continued = False  # a part of a document that has begun is kept whatever it holds
    for some in lists:
        texts = some.texts
        if options.on_bad_bytes == "replace":
            texts = _mended(texts, report)
        together = "\n".join(texts)
        if options.on_bad_bytes == "stop":
            _refuse_half_characters(together, report)
        if end_of_text in together:
            report.markers += sum(text.count(end_of_text) for text in texts)
            if not some.prompt_characters:  # a pair is one sample whatever stands in it
                texts = [part for text in texts for part in text.split(end_of_text)]
        keep = list(map(bool, map(str.strip, texts)))
        keep[0] = keep[0] or continued
        keep[-1] = keep[-1] or some.goes_on
        report.empty += keep.count(False)
        if options.on_bad_bytes == "skip-sample":
            bad = [bool(UNDECODABLE.search(text)) for text in texts]
            report.skipped_samples += sum(bad)
            keep = [good and not damaged for good, damaged in zip(keep, bad, strict=True)]
        continued = some.goes_on
        report.samples += sum(keep) - some.goes_on
        if all(keep):
            yield SampleList(texts, some.prompt_characters, some.goes_on)
        elif any(keep):
            yield SampleList(list(compress(texts, keep)), list(compress(some.prompt_characters, keep)), some.goes_on)


def _refuse_half_characters(text: str, report: SourceReport) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        before = text[max(error.start - SHOWN_CHARACTERS, 0) : error.start]
        raise UserError(
            "{name} holds half a character (\\u{code:04x}), behind {before!r}",
            hint="a program cut the text there; --on-bad-bytes replace or skip-sample goes on without it",
            name=report.name,
            code=ord(text[error.start]),
            before=before,
        ) from None


def _mended(texts: list[str], report: SourceReport) -> list[str]:
    mended = []
    for text in texts:
        good, count = UNDECODABLE.subn("\ufffd", text)
        report.replaced_bytes += count
        mended.append(good)
    return mended


def _guarded(file: SourceFile, samples: Iterator[SampleList], encoding: str) -> Iterator[SampleList]:
    while True:
        some = _guard(file, lambda: next(samples, None), encoding)
        if some is None:
            return
        yield some


def _guard(file: SourceFile, act: Callable[[], T], encoding: str) -> T:
    try:
        return act()
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
