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
        assert detect_encoding(sources_of(path).files[0]) == "utf-8"


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
