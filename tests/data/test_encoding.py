"""Encodings: detected, verified, or named with the byte that does not fit."""

from pathlib import Path

import pytest

from tunesmith.data.encoding import check_encoding, detect_encoding
from tunesmith.data.readers import ReadingOptions, open_source
from tunesmith.data.source_files import ResolvedSources, resolve_sources
from tunesmith.errors import UserError

JAPANESE = (
    "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。\nニャーニャー泣いていた事だけは記憶している。\n"
    * 30
)
FRENCH = "Le café était fermé à Noël; où êtes-vous allé, mon garçon?\nÀ la plage, où il faisait très froid.\n" * 30


def sources_of(source: Path) -> ResolvedSources:
    """What a SOURCE stands for."""
    with resolve_sources([str(source)]) as found:
        return found


def read(path: Path, **options: str) -> tuple[str, str]:
    """Encoding and text of a file read as one document."""
    (file,) = sources_of(path).files
    report, lists = open_source(file, ReadingOptions(split_on="document", **options), end_of_text="<|endoftext|>")  # type: ignore[arg-type]
    return report.encoding, "".join(text for some in lists for text in some.texts)


@pytest.mark.parametrize(
    ("text", "encoding", "expected"),
    [
        (JAPANESE, "utf-8", {"utf-8"}),
        (JAPANESE, "utf-8-sig", {"utf-8-sig"}),
        (JAPANESE, "utf-16", {"utf-16"}),
        (JAPANESE, "utf-32", {"utf-32"}),
        (JAPANESE, "cp932", {"cp932"}),
        (JAPANESE, "euc_jp", {"euc_jp"}),
        (FRENCH, "latin-1", {"latin_1", "cp1252"}),
        (FRENCH, "utf-16-le", {"utf-16-le"}),
        (FRENCH, "utf-16-be", {"utf-16-be"}),
        ("plain words\n", "utf-16-le", {"utf-16-le"}),
        ("plain ascii\n", "ascii", {"utf-8"}),
    ],
)
def test_encodings_are_detected(text: str, encoding: str, expected: set[str], tmp_path: Path) -> None:
    """Each encoding is recognized and read without losing or inventing a character."""
    path = tmp_path / "text.txt"
    path.write_bytes(text.encode(encoding))
    detected, decoded = read(path)
    assert detected in expected
    assert decoded == text.strip("\n")


def test_a_head_may_end_inside_a_character(tmp_path: Path) -> None:
    """Detection looks at a head only, wherever it is cut."""
    for shift in range(3):
        path = tmp_path / "text.txt"
        path.write_bytes(b"x" * shift + ("猫" * 200_000).encode())
        assert detect_encoding(sources_of(path).files[0]).name == "utf-8"


@pytest.mark.parametrize("at", [0, 5000, 3_000_001])
def test_the_first_bad_byte_is_named(at: int, tmp_path: Path) -> None:
    """A byte that does not decode stops the run with its offset, far into a file too."""
    content = ("日本語のテキスト。" * 130_000).encode()
    at -= at % 3
    path = tmp_path / "text.txt"
    path.write_bytes(content[:at] + b"\xff" + content[at:])
    with pytest.raises(UserError, match=rf"byte 0xff at offset {at:,}") as error:
        read(path)
    assert "--encoding" in error.value.hint


def test_a_file_that_ends_inside_a_character(tmp_path: Path) -> None:
    """A cut-off last character is an error too."""
    path = tmp_path / "text.txt"
    path.write_bytes(JAPANESE.encode()[:-2])
    with pytest.raises(UserError, match="not utf-8 throughout"):
        read(path)


def test_bad_bytes_are_replaced_or_their_samples_skipped(tmp_path: Path) -> None:
    """--encoding-errors counts exactly what it did."""
    path = tmp_path / "text.txt"
    path.write_bytes(b"good\nb\xffd \xfe\nfine\n")
    (file,) = sources_of(path).files
    found = {}
    for choice in ("replace", "skip"):
        options = ReadingOptions(split_on="line", encoding="utf-8", encoding_errors=choice)  # type: ignore[arg-type]
        report, lists = open_source(file, options, end_of_text="<|endoftext|>")
        found[choice] = [text for some in lists for text in some.texts]
        assert (report.replaced_bytes, report.undecodable_samples) == ((2, 0) if choice == "replace" else (0, 1))
    assert found == {"replace": ["good", "b\ufffdd \ufffd", "fine"], "skip": ["good", "fine"]}


def test_half_characters_in_json_are_no_text(tmp_path: Path) -> None:
    """An escape for half of a character stops the run, or is counted like a byte that does not decode."""
    path = tmp_path / "text.jsonl"
    path.write_text('{"text": "whole"}\n{"text": "cut \\ud83d off"}\n{"text": "\\ud83d\\ude00"}\n', encoding="utf-8")
    (file,) = sources_of(path).files
    with pytest.raises(UserError, match=r"text.jsonl contains half a character \(\\ud83d\)"):
        list(open_source(file, ReadingOptions(), end_of_text="<|endoftext|>")[1])
    expected = {"replace": ["whole", "cut \ufffd off", "\U0001f600"], "skip": ["whole", "\U0001f600"]}
    for choice, texts in expected.items():
        options = ReadingOptions(encoding_errors=choice)  # type: ignore[arg-type]
        report, lists = open_source(file, options, end_of_text="<|endoftext|>")
        assert [text for some in lists for text in some.texts] == texts
        assert report.replaced_bytes + report.undecodable_samples == 1


def test_encoding_overrules(tmp_path: Path) -> None:
    """--encoding reads as it says; an unknown name is refused."""
    path = tmp_path / "text.txt"
    path.write_bytes("é".encode("cp1252"))
    assert read(path, encoding="cp1251") == ("cp1251", "й")
    with pytest.raises(UserError, match="--encoding klingon is not a known encoding"):
        check_encoding("klingon")


@pytest.mark.parametrize("content", [bytes(range(256)) * 100, b"\x00\x01\x02" * 1000])
def test_binary_files_are_no_text(content: bytes, tmp_path: Path) -> None:
    """A picture with a text suffix is refused, even if every byte of it decodes."""
    path = tmp_path / "photo.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match="does not look like text"):
        read(path)


def detected(content: bytes, tmp_path: Path) -> str:
    """The encoding of a file with this content."""
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    return detect_encoding(sources_of(path).files[0]).name


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (JAPANESE.encode("cp932")[:900] + b"\x80" + JAPANESE.encode("cp932")[900:], "cp932"),
        (JAPANESE.encode("euc_jp")[:900] + b"\xff" + JAPANESE.encode("euc_jp")[900:], "euc_jp"),
        (("We don\u2019t know what the keeper saw.\n" * 41).encode() + b"Fog \xa0 all day.\n", "utf-8"),
        (FRENCH.encode() + "Un café à Noël, peut-être.\n".encode("cp1252") * 2, "utf-8"),
        (JAPANESE.encode("iso2022_jp"), "iso2022_jp"),
        (JAPANESE.encode("iso2022_jp") + b"\xff\n", "iso2022_jp"),
        ("守灯塔的人在天亮以前起床\n".encode("hz") * 3, "hz"),
        (b"One zero byte\0 in plain text.\n" * 3 + b"And no more of them.\n" * 60, "utf-8"),
        (JAPANESE.encode("cp932") + b"\0\n", "cp932"),
        (JAPANESE.encode("utf-16-le"), "utf-16-le"),
        (JAPANESE.encode("utf-16-be"), "utf-16-be"),
    ],
    ids=[
        "Shift_JIS",
        "EUC-JP",
        "apostrophes",
        "cp1252 lines",
        "ISO-2022-JP",
        "ISO-2022-JP+",
        "HZ",
        "zero",
        "zero in Shift_JIS",
        "UTF-16 LE",
        "UTF-16 BE",
    ],
)
def test_a_few_other_bytes_decide_nothing(content: bytes, expected: str, tmp_path: Path) -> None:
    """The encoding of all the rest, whatever decodes."""
    assert detected(content, tmp_path) == expected


def test_what_comes_late_in_a_long_file_is_seen(tmp_path: Path) -> None:
    """Plain English for megabytes, then a chapter in another encoding."""
    plain = b"The lamp was lit at six and burned until the morning, as on any other night.\n" * 60_000
    chapter = "Der Wärter öffnete früh die Tür und sah über die graue Fläche.\n".encode("cp1252") * 2000
    assert detected(plain + chapter, tmp_path) == "cp1252"


def test_two_likely_encodings_are_asked_about(tmp_path: Path) -> None:
    """With a line in each, and both flags."""
    path = tmp_path / "text.txt"
    path.write_bytes("Он сказал: да.\n".encode("mac_cyrillic"))
    with pytest.raises(UserError, match=r"may be in \w+ or in \w+: a line reads '.+' or '.+'") as error:
        read(path)
    assert error.value.hint.count("--encoding") == 2


@pytest.mark.parametrize("wrong", ["cp1251", "mac_roman"])
def test_mojibake_of_other_encodings_is_named(wrong: str, tmp_path: Path) -> None:
    """Russian on Windows, French on a Macintosh; line ends of both kinds."""
    text = {"cp1251": "Ветер и туман.\n", "mac_roman": "fermé été\n"}[wrong]
    with pytest.raises(UserError, match="damaged by a wrong encoding before"):
        detected((text * 40).replace("\n", "\r\n").encode().decode(wrong, errors="ignore").encode(), tmp_path)


@pytest.mark.parametrize("wrong", ["cp1252", "latin-1"])
def test_text_that_was_damaged_before_is_named(wrong: str, tmp_path: Path) -> None:
    """UTF-8 that a program read in a Western encoding and stored: with what it stands for."""
    path = tmp_path / "text.txt"
    path.write_bytes(FRENCH.replace("À", "A").encode().decode(wrong).encode())
    with pytest.raises(UserError, match=r"damaged by a wrong encoding before: '.+' was 'é'"):
        read(path)
    assert read(path, encoding="utf-8")[0] == "utf-8"


def test_a_bad_byte_is_named_with_its_line(tmp_path: Path) -> None:
    """Counted from 1, far into a file too."""
    path = tmp_path / "text.txt"
    path.write_bytes("première\n".encode() * 200_000 + b"ligne \xff\n")
    with pytest.raises(UserError, match=r"byte 0xff at offset 2,000,006, line 200,001"):
        read(path)


def test_text_with_any_line_ends_is_not_mojibake(tmp_path: Path) -> None:
    """CR and LF beside characters that no Western encoding has."""
    assert detected(JAPANESE.replace("\n", "\r\n").encode(), tmp_path) == "utf-8"
    assert detected(JAPANESE.replace("\n", "\r\n").encode("cp932"), tmp_path) == "cp932"
