"""Text encoding of a file: detected from samples of it, shown in the report, verified by decoding all of it.

A byte-order mark or valid UTF-8 decides. Everything else is decided by likelihood (`encoding_likelihood`): bytes that
do not decode are counted as damage, not as evidence against an encoding, and where two encodings are nearly as likely
and give different text, the run stops and shows a line in each.

A file that is not in the detected encoding throughout stops the run with the place of the first byte that does not
decode, unless the user chose to replace or skip such bytes, which are then counted.
"""

import codecs
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from tunesmith.data.encoding_likelihood import EASTERN, Reading, lines_to_weigh, readings
from tunesmith.data.source_files import SourceFile
from tunesmith.errors import UserError
from tunesmith.i18n import LazyString

HEAD_BYTES = 1 << 20
HEAD_WIDE_BYTES = 1 << 16
WINDOW_BYTES, N_WINDOWS = 1 << 16, 32
"""Read from a larger file, evenly spread, in addition to its head."""
BYTES_AT_A_TIME = 1 << 20
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
ESCAPES = {"iso2022_jp": re.compile(rb"\x1b\$[@B]"), "hz": re.compile(rb"~\{(?:[\x21-\x77][\x21-\x7e]){2,}~\}")}
"""Encodings in 7 bits that switch character sets."""
NOT_ASCII = re.compile(r"[\x00-\x7f]+")
MIN_VALID_UTF8, MIN_VALID_UTF8_RATIO = 3, 2
"""Sequences of bytes that are valid UTF-8 are rare in other encodings."""
MIN_ZERO_BYTES, MOSTLY_ASCII = 2, 0.9
CONTROL_BYTES = bytes(set(range(32)) - {9, 10, 12, 13, 27})
FEW_CONTROL_BYTES = 32
MAX_CONTROL_FRACTION = 0.01
MIN_MARGIN_NATS, MIN_MARGIN_NATS_OF_FEW, FEW_CHARACTERS = 6.0, 18.0, 100
"""The second encoding is at least this much less likely, or the user is asked."""
MAX_DIFFERENT_FRACTION = 0.02
"""Readings that differ in fewer of the characters outside of ASCII, those at damaged bytes, are one."""
MIN_NATS_PER_CHARACTER, MIN_NATS_PER_EASTERN_CHARACTER = -5.0, -9.0
"""Text of which characters outside of ASCII are less likely in every encoding is asked about."""
MIN_WIDE_TEXT_FRACTION = 0.9
ONCE_READ_AS = ("cp1252", "latin-1", "cp1251", "cp932", "mac_roman", "cp437")
MOST_PARTS, MOJIBAKE_BYTES = 2000, 1 << 18
MAX_LOST_FRACTION = 0.2
"""Of the characters of a part: a program that damages a text loses bytes, too."""
MIN_MOJIBAKE, MIN_MOJIBAKE_FRACTION = 3, 0.3
SHOWN_CHARACTERS = 60


@dataclass(frozen=True)
class DetectedEncoding:
    """The encoding of a file, as Python's name of it, and the evidence."""

    name: str
    reason: LazyString


def detect_encoding(file: SourceFile) -> DetectedEncoding:  # noqa: PLR0911  a table of cases
    """Detect the encoding of a file.

    Raises:
        UserError: if it is not text, the text was damaged by a wrong encoding before, or two encodings are as likely.
    """
    with file.open() as stream:
        head = stream.read(HEAD_BYTES)
    for mark, encoding in BYTE_ORDER_MARKS:
        if head.startswith(mark):
            return DetectedEncoding(encoding, LazyString("byte-order mark"))
    n_controls = len(head) - len(head.translate(None, CONTROL_BYTES))
    has_controls = n_controls > max(FEW_CONTROL_BYTES, MAX_CONTROL_FRACTION * len(head))
    if has_controls or _may_be_wide(head):
        return _detect_wide(file, head)
    content = b"".join([head, *_windows(file, len(head))])
    for name, escape in ESCAPES.items():
        if escape.search(content):
            return DetectedEncoding(name, LazyString("escape sequences"))
    if content.isascii():
        return DetectedEncoding("utf-8", LazyString("valid UTF-8"))
    if _decodes(content, "utf-8"):
        _check_mojibake(file, lines_to_weigh(content[:MOJIBAKE_BYTES]).decode("utf-8", errors="ignore"))
        return DetectedEncoding("utf-8", LazyString("valid UTF-8"))
    lines = lines_to_weigh(content)
    text = content.decode("utf-8", errors="replace")
    n_bad = text.count("\ufffd")
    n_valid = len(NOT_ASCII.sub("", text)) - n_bad
    if n_valid >= MIN_VALID_UTF8 and n_valid > MIN_VALID_UTF8_RATIO * n_bad:
        _check_mojibake(file, lines.decode("utf-8", errors="replace"))
        return DetectedEncoding(
            "utf-8", LazyString("UTF-8 with {bad:,} bytes that do not decode in the parts looked at", {"bad": n_bad})
        )
    return _likeliest(file, lines)


def _may_be_wide(head: bytes) -> bool:
    """Whether zero bytes are those of UTF-16 or UTF-32: not a few between other text."""
    if head.count(0) < MIN_ZERO_BYTES:
        return False
    rest = head.replace(b"\0", b"")
    n_ascii = sum(map(rest.count, b"\n\t\r")) + len(rest) - len(rest.translate(None, bytes(range(32, 127))))
    is_mostly_ascii = n_ascii > MOSTLY_ASCII * len(rest) and len(rest) > len(head) * MOSTLY_ASCII
    return not is_mostly_ascii and not (_decodes(rest, "utf-8") and len(rest) > len(head) * MOSTLY_ASCII)


def _windows(file: SourceFile, start: int) -> Iterator[bytes]:
    """Whole lines from evenly spread places of a plain file, after its head."""
    if file.compression or file.member or start < HEAD_BYTES:
        return
    rest = file.path.stat().st_size - start
    step = max(rest // N_WINDOWS, WINDOW_BYTES)
    with file.open() as stream:
        for place in range(start, start + rest, step):
            stream.seek(place)
            _, _, window = stream.read(WINDOW_BYTES).partition(b"\n")
            yield b"\n" + window[: window.rfind(b"\n") + 1]


def _detect_wide(file: SourceFile, head: bytes) -> DetectedEncoding:
    """UTF-16 and UTF-32 without a byte-order mark; no other text has zero bytes."""
    best, most = "", MIN_WIDE_TEXT_FRACTION
    for encoding in ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"):
        text = head[: len(head) // 4 * 4][:HEAD_WIDE_BYTES].decode(encoding, errors="replace")
        fraction = sum(map(_is_of_text, text)) / max(len(text), 1)
        if b"\0" in head and fraction > most:
            best, most = encoding, fraction
    if not best:
        raise UserError("{path} does not look like text", hint="name a text file, or set --encoding", path=file.path)
    return DetectedEncoding(best, LazyString("zero bytes between those of letters"))


def _is_of_text(character: str) -> bool:
    """Whether a character is usual: letters of alphabets, kana, common ideographs, ASCII, punctuation."""
    if character < "\x80":
        return character >= " " or character in "\t\n\r\f"
    code = ord(character)
    return (
        code < 0x700 or 0x2000 <= code < 0x2200 or 0x3000 <= code < 0x3100 or 0x4E00 <= code < 0xA000
        or 0xAC00 <= code < 0xD7A4 or 0xFF00 <= code < 0xFFF0 or code >= 0x1F300
    ) and unicodedata.category(character) not in {"Cc", "Cn", "Co", "Cs"}  # fmt: skip


def _likeliest(file: SourceFile, lines: bytes) -> DetectedEncoding:
    best, *others = readings(lines)
    n_characters = sum(character > "\x7f" for character in best.text)
    least = MIN_NATS_PER_EASTERN_CHARACTER if best.encoding in EASTERN else MIN_NATS_PER_CHARACTER
    if best.nats < least * max(n_characters, 1):
        raise UserError(
            "{path} is not text in any encoding that is detected; {encoding} comes nearest and reads {line!r}",
            hint="set --encoding NAME",
            path=file.path,
            encoding=best.encoding,
            line=_first_difference(best, None),
        )
    n_bad = best.text.count("\ufffd")
    decodable = [other for other in others if n_characters > FEW_CHARACTERS or other.text.count("\ufffd") <= n_bad]
    second = next((other for other in decodable if _differ(best.text, other.text, n_characters)), None)
    if second is None or best.nats - second.nats >= (
        MIN_MARGIN_NATS if n_characters > FEW_CHARACTERS else MIN_MARGIN_NATS_OF_FEW
    ):
        _check_mojibake(file, best.text)
        if second is None:
            return DetectedEncoding(best.encoding, LazyString("likeliest"))
        return DetectedEncoding(
            best.encoding,
            LazyString(
                "likelier than {other} by {nats:,.0f} nats",
                {"other": second.encoding, "nats": best.nats - second.nats},
            ),
        )
    raise UserError(
        "{path} may be in {first} or in {second}: a line reads {one!r} or {other!r}",
        hint="choose with --encoding {first} or --encoding {second}",
        path=file.path,
        first=best.encoding,
        second=second.encoding,
        one=_first_difference(best, second),
        other=_first_difference(second, best),
    )


def _differ(text: str, other: str, n_characters: int) -> bool:
    """Whether two readings are different texts."""
    if len(text) != len(other):
        return True
    return sum(a != b for a, b in zip(text, other, strict=True)) > MAX_DIFFERENT_FRACTION * n_characters


def _first_difference(reading: Reading, other: Reading | None) -> str:
    """Return the beginning of the first line that two readings differ in."""
    ours = reading.text.split("\n")
    theirs = other.text.split("\n") if other else [""]
    line = next((a for a, b in zip(ours, theirs, strict=False) if a != b), ours[0])
    first = next((i for i, character in enumerate(line) if character > "\x7f"), 0)
    return line[max(first - SHOWN_CHARACTERS // 2, 0) :][:SHOWN_CHARACTERS]


def _check_mojibake(file: SourceFile, text: str) -> None:
    """Check that the text is not UTF-8 that was once read in another encoding and stored so."""
    parts = [part for part in re.split(r"[\x00-\x7f]+", text) if part][:MOST_PARTS]
    mended = [(part, right) for part in parts for right in [_mended(part)] if right]
    if len(mended) < MIN_MOJIBAKE or len(mended) < MIN_MOJIBAKE_FRACTION * len(parts):
        return
    wrong, right = mended[0]
    raise UserError(
        "{path} was damaged by a wrong encoding before: {wrong!r} was {right!r}, in {count:,} places at least",
        hint="get the original file, or repair this one (Python's ftfy does); --encoding utf-8 trains on it as it is",
        path=file.path,
        wrong=wrong,
        right=right,
        count=len(mended),
    )


def _mended(part: str) -> str:
    """Return what mojibake was before; "" if a part of a text is none."""
    for encoding in ONCE_READ_AS:
        coded = part.encode(encoding, errors="ignore")
        right = coded.decode("utf-8", errors="replace")
        n_lost = right.count("\ufffd") + len(part) - len(coded.decode(encoding, errors="ignore"))
        if right.strip("\ufffd") and len(right) < len(part) and n_lost <= MAX_LOST_FRACTION * len(right):
            return right
    return ""


def check_encoding(name: str) -> str:
    """Check the value of --encoding."""
    try:
        "".encode(name)
    except LookupError:
        raise UserError(
            "--encoding {name} is not a known encoding",
            hint="for example utf-8, cp932, euc_jp, utf-16, latin-1",
            name=name,
        ) from None
    return name


def bad_byte(file: SourceFile, encoding: str) -> UserError:
    """Make the error for the first byte of a file that does not decode."""
    decoder = codecs.getincrementaldecoder(encoding)()
    offset, line = 0, 1
    with file.open() as stream:
        while chunk := stream.read(BYTES_AT_A_TIME):
            held_back = len(decoder.getstate()[0])
            try:
                decoder.decode(chunk)
            except UnicodeDecodeError as error:
                place = error.start - held_back
                line += chunk[: max(place, 0)].count(b"\n")
                return _bad_byte_error(file, encoding, offset + place, line, error.object[error.start])
            offset += len(chunk)
            line += chunk.count(b"\n")
    return _bad_byte_error(file, encoding, offset, line, None)


def _bad_byte_error(file: SourceFile, encoding: str, offset: int, line: int, byte: int | None) -> UserError:
    return UserError(
        "{path} is not {encoding} throughout: the file ends inside a character at offset {offset:,}"
        if byte is None
        else "{path} is not {encoding} throughout: byte 0x{byte:02x} at offset {offset:,}, line {line:,}",
        hint="set the encoding with --encoding NAME, or use --encoding-errors replace or skip",
        path=file.path,
        encoding=encoding,
        byte=byte,
        offset=offset,
        line=line,
    )


def _decodes(head: bytes, encoding: str) -> bool:
    """Whether a head decodes; its last character may be cut."""
    try:
        codecs.getincrementaldecoder(encoding)().decode(head, final=False)
    except UnicodeDecodeError:
        return False
    return True
