"""Text encoding of a file: detected from its head, shown in the report, verified by decoding all of it.

A file that is not in the detected encoding throughout stops the run with the offset of the first byte that does not
decode, unless the user chose to replace or skip such bytes, which are then counted.
"""

import codecs

from charset_normalizer import from_bytes

from tunesmith.data.source_files import SourceFile
from tunesmith.errors import UserError

HEAD_BYTES = 1 << 18
BYTES_AT_A_TIME = 1 << 20
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
CANDIDATES = ["cp932", "euc_jp", "iso2022_jp", "cp1252", "latin_1"]
"""Legacy encodings that are detected, the strictest first; any other needs --encoding."""
CONTROL_BYTES = bytes(set(range(32)) - {9, 10, 12, 13, 27})
FEW_CONTROL_BYTES = 32
MAX_CONTROL_FRACTION = 0.01
MAX_BROKEN_FRACTION = 0.02


def detect_encoding(file: SourceFile) -> str:
    """Detect the encoding from the file's head, as Python's name of it."""
    with file.open() as stream:
        head = stream.read(HEAD_BYTES)
    for mark, encoding in BYTE_ORDER_MARKS:
        if head.startswith(mark):
            return encoding
    n_controls = len(head) - len(head.translate(None, CONTROL_BYTES))
    has_controls = n_controls > max(FEW_CONTROL_BYTES, MAX_CONTROL_FRACTION * len(head))
    if _is_wide(head):
        return "utf-16-le" if head[1::2].count(0) > head[::2].count(0) else "utf-16-be"
    if _decodes(head, "utf-8") and not has_controls:
        return "utf-8"
    if has_controls:
        raise UserError(
            "{path} does not look like text",
            hint="name a text file, or set --encoding",
            path=file.path,
        )
    if _is_broken_utf8(head):
        return "utf-8"
    candidates = [name for name in CANDIDATES if _decodes(head, name)]
    best = from_bytes(head, cp_isolation=candidates).best()
    return candidates[0] if best is None else best.encoding


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
    offset = 0
    with file.open() as stream:
        while chunk := stream.read(BYTES_AT_A_TIME):
            held_back = len(decoder.getstate()[0])
            try:
                decoder.decode(chunk)
            except UnicodeDecodeError as error:
                return _bad_byte_error(file, encoding, offset - held_back + error.start, error.object[error.start])
            offset += len(chunk)
    return _bad_byte_error(file, encoding, offset, None)


def _bad_byte_error(file: SourceFile, encoding: str, offset: int, byte: int | None) -> UserError:
    return UserError(
        "{path} is not {encoding} throughout: the file ends inside a character at offset {offset:,}"
        if byte is None
        else "{path} is not {encoding} throughout: byte 0x{byte:02x} at offset {offset:,}",
        hint="set the encoding with --encoding NAME, or use --encoding-errors replace or skip",
        path=file.path,
        encoding=encoding,
        byte=byte,
        offset=offset,
    )


def _decodes(head: bytes, encoding: str) -> bool:
    """Whether a head decodes; its last character may be cut."""
    try:
        codecs.getincrementaldecoder(encoding)().decode(head, final=False)
    except UnicodeDecodeError:
        return False
    return True


def _is_wide(head: bytes) -> bool:
    """Whether every other byte is mostly zero, as in Western text in UTF-16."""
    half = len(head) // 2
    return half > 0 and max(head[::2].count(0), head[1::2].count(0)) > 0.4 * half


def _is_broken_utf8(head: bytes) -> bool:
    """Whether it is UTF-8 with little damage: many valid multi-byte characters, few bad bytes."""
    text = head.decode("utf-8", errors="replace")
    broken = text.count("\ufffd")
    wide = sum(character > "\x7f" for character in text)
    return broken < MAX_BROKEN_FRACTION * wide
