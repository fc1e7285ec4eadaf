"""A checkpoint's own tokenizer, with the `tokenizers` library.

Text is always encoded as ordinary text: the content of a file never becomes a special token. The id of end-of-text is
the checkpoint's, never assumed.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import AddedToken, Encoding, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

from tunesmith.data.prefetch import prefetch
from tunesmith.data.sentencepiece import SENTENCEPIECE_FILE, read_sentencepiece
from tunesmith.data.spans import Int64s
from tunesmith.errors import UserError
from tunesmith.utils.files import describe_os_error, parse_json, write_atomically, write_json

FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    SENTENCEPIECE_FILE,
)
PIECE_CHARACTERS = 2000
"""Long texts are encoded in pieces of about this size, which measured fastest."""
PIECES_AT_A_TIME = 512
GPT2_VOCAB = 50_257
"""Vocabulary size where config.json has none."""
SAFE_BORDER = re.compile(r"(?<=\S)(?= \S)|(?<=\S\n)(?=\S)")
"""Where a GPT-2 pre-token always ends: before a single space, after a single line end."""

TokenIds = npt.NDArray[np.uint32]

SHOWN_AS_THEMSELVES = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
BYTE_LEVEL_ALPHABET = {byte: chr(byte) for byte in SHOWN_AS_THEMSELVES} | {
    byte: chr(0x100 + number)
    for number, byte in enumerate(byte for byte in range(0x100) if byte not in SHOWN_AS_THEMSELVES)
}
"""Character of a byte-level vocabulary for each byte (`bytes_to_unicode` in GPT-2's released encoder.py)."""

END_OF_TEXT = "<|endoftext|>"
"""GPT-2's marker; used where a checkpoint names none."""


class TextTokenizer:
    """Text to ids and back.

    Attributes:
        end_of_text_id: follows every sample and ends generation.
        end_of_text: the same as a string.
        folder: the model folder it was read from.
    """

    def __init__(self, tokenizer: Tokenizer, *, end_of_text_id: int, folder: Path) -> None:
        tokenizer.encode_special_tokens = True
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._tokenizer = tokenizer
        self.folder = folder
        self.end_of_text_id = end_of_text_id
        self.end_of_text = str(tokenizer.id_to_token(end_of_text_id))

    @property
    def vocab_size(self) -> int:
        """Largest id plus one."""
        return max(self._vocab.values()) + 1

    @cached_property
    def _vocab(self) -> dict[str, int]:
        vocab: dict[str, int] = self._tokenizer.get_vocab(with_added_tokens=True)
        return vocab

    @cached_property
    def fingerprint(self) -> str:
        """Hash that changes whenever the same text could get other ids."""
        content = f"{self.end_of_text_id}\n{self.json}"
        return hashlib.sha256(content.encode("utf-8")).hexdigest()

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Encode texts without special tokens."""
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def encode_packed(self, texts: list[str]) -> tuple[TokenIds, Int64s]:
        """Encode large amounts of text: concatenated ids, and the number of ids of each text."""
        pieces, pieces_of_text = safe_pieces(texts, PIECE_CHARACTERS) if self.may_be_cut else (texts, [1] * len(texts))
        counts = np.zeros(len(pieces), np.int64)
        ids = [np.zeros(0, np.uint32)]
        done = 0
        for encodings in prefetch(self._encoded(pieces)):  # the library releases the GIL
            ids += [np.asarray(encoding.ids, np.uint32) for encoding in encodings]
            counts[done : done + len(encodings)] = list(map(len, encodings))
            done += len(encodings)
        first_piece = np.cumsum([0, *pieces_of_text[:-1]])
        return np.concatenate(ids), np.add.reduceat(counts, first_piece) if len(texts) else counts

    def _encoded(self, pieces: list[str]) -> Iterator[list[Encoding]]:
        for start in range(0, len(pieces), PIECES_AT_A_TIME):
            chunk = pieces[start : start + PIECES_AT_A_TIME]
            yield self._tokenizer.encode_batch_fast(chunk, add_special_tokens=False)

    @cached_property
    def json(self) -> str:
        """The tokenizer in the form of tokenizer.json."""
        content: str = self._tokenizer.to_str()
        return content

    @cached_property
    def _content(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self.json)
        return content

    @property
    def added_tokens(self) -> list[str]:
        """Tokens that are found in a text before anything else, end-of-text among them."""
        return [token.content for token in self._tokenizer.get_added_tokens_decoder().values()]

    @cached_property
    def may_be_cut(self) -> bool:
        """Whether the pre-tokenizer is GPT-2's, for which `safe_pieces` is exact."""
        content = self._content
        pre_tokenizer = content.get("pre_tokenizer") or {}
        plain = pre_tokenizer.get("use_regex", True) and not pre_tokenizer.get("add_prefix_space", True)
        return pre_tokenizer.get("type") == "ByteLevel" and plain and content.get("normalizer") is None

    @cached_property
    def bytes_of_token(self) -> Int64s | None:
        """UTF-8 bytes of each id's text, by id; None unless the tokenizer is byte-level."""
        if not isinstance(self._tokenizer.decoder, decoders.ByteLevel):
            return None
        n_bytes = np.zeros(self.vocab_size, np.int64)
        n_bytes[list(self._vocab.values())] = list(map(len, self._vocab))  # a character of the vocabulary is a byte
        return n_bytes

    @cached_property
    def characters_of_token(self) -> Int64s | None:
        """Number of characters that begin in each id's bytes, by id; None where `bytes_of_token` is."""
        if self.bytes_of_token is None:
            return None
        inside = {ord(shown): None for byte, shown in BYTE_LEVEL_ALPHABET.items() if 0x80 <= byte < 0xC0}
        n_characters = np.zeros(self.vocab_size, np.int64)
        n_characters[list(self._vocab.values())] = [len(token.translate(inside)) for token in self._vocab]
        return n_characters

    def decode(self, ids: list[int]) -> str:
        """Decode ids; bytes of an incomplete character become U+FFFD."""
        text: str = self._tokenizer.decode(ids, skip_special_tokens=False)
        return text

    def entry(self, token_id: int) -> str:
        """Vocabulary entry of an id; empty if there is none."""
        return str(self._tokenizer.id_to_token(token_id) or "")

    def is_fragment(self, token_id: int) -> bool:
        """Whether an id is a part of a character only, or the unknown token."""
        return token_id == self._unknown_id or "\ufffd" in self.decode([token_id])

    @cached_property
    def _unknown_id(self) -> int | None:
        return None if self.may_be_cut else self._content["model"].get("unk_id")

    def save(self, folder: Path) -> None:
        """Write what `AutoTokenizer.from_pretrained(folder)` needs: the checkpoint's own files, and missing ones."""
        for name in FILES:
            if (self.folder / name).is_file() and self.folder.resolve() != folder.resolve():
                write_atomically(folder / name, partial(shutil.copyfile, self.folder / name))
        if not (folder / "tokenizer.json").is_file():
            write_atomically(folder / "tokenizer.json", lambda path: self._tokenizer.save(str(path)))
        if not (folder / "tokenizer_config.json").is_file():
            token = self.end_of_text
            write_json(
                folder / "tokenizer_config.json",
                {
                    "tokenizer_class": "GPT2Tokenizer" if self.may_be_cut else "PreTrainedTokenizerFast",
                    "bos_token": token,
                    "eos_token": token,
                    "unk_token": token,
                    "add_prefix_space": False,
                },
            )


def safe_pieces(texts: list[str], characters: int) -> tuple[list[str], list[int]]:
    """Cut long texts into pieces of about `characters`, where GPT-2's pre-tokenizer cuts in any case.

    The ids of the pieces are the ids of the whole (`SAFE_BORDER`); long documents are encoded on all cores and in
    bounded memory.

    Returns:
        The pieces, and the number of pieces of each text.
    """
    if max(map(len, texts), default=0) <= characters:  # the usual case
        return texts, [1] * len(texts)
    pieces: list[str] = []
    pieces_of_text: list[int] = []
    for text in texts:
        before = len(pieces)
        start = 0
        while len(text) - start > characters:
            border = SAFE_BORDER.search(text, start + characters)
            if border is None:
                break
            pieces.append(text[start : border.start()])
            start = border.start()
        pieces.append(text[start:])
        pieces_of_text.append(len(pieces) - before)
    return pieces, pieces_of_text


def load_tokenizer(folder: Path, hf_config: dict[str, Any]) -> TextTokenizer:
    """Read the tokenizer of a model folder.

    Args:
        folder: the model folder.
        hf_config: its `config.json`, for the id of end-of-text and the size of the embedding table; empty for a
            folder with a tokenizer only.

    Raises:
        UserError: if there is none, it is damaged, or it does not belong to the model.
    """
    tokenizer = _read(folder)
    end_of_text_id = _end_of_text_id(folder, hf_config, tokenizer)
    loaded = TextTokenizer(tokenizer, end_of_text_id=end_of_text_id, folder=folder)
    model_vocab = hf_config.get("vocab_size", GPT2_VOCAB)
    if hf_config and not (isinstance(model_vocab, int) and loaded.vocab_size <= model_vocab):
        raise UserError(
            "{folder}: the tokenizer has ids up to {last_id}, the model only {model_vocab!r:.80}",
            hint="tokenizer and weights belong to different checkpoints; get both again",
            folder=folder,
            last_id=loaded.vocab_size - 1,
            model_vocab=model_vocab,
        )
    return loaded


def load_tokenizer_files(path: Path, merges: Path | None) -> TextTokenizer:
    """Read a tokenizer from files with any names.

    Args:
        path: a tokenizer.json or a vocab.json by content.
        merges: a merges.txt by content, for a vocab.json.
    """
    try:
        tokenizer = Tokenizer.from_file(str(path)) if merges is None else _byte_level_bpe(path, merges)
    except Exception as error:  # noqa: BLE001  the library raises plain Exception for a damaged file
        raise UserError(
            "the tokenizer {path} cannot be read: {reason}",
            hint="copy the checkpoint again, all files of it",
            path=path,
            reason=error,
        ) from None
    end_of_text_id = _end_of_text_id(path.parent, {}, tokenizer)
    return TextTokenizer(tokenizer, end_of_text_id=end_of_text_id, folder=path.parent)


def _read(folder: Path) -> Tokenizer:
    try:
        if (folder / "tokenizer.json").is_file():
            return Tokenizer.from_file(str(folder / "tokenizer.json"))
        if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
            return _byte_level_bpe(folder / "vocab.json", folder / "merges.txt")
        if (folder / SENTENCEPIECE_FILE).is_file():
            return read_sentencepiece(folder / SENTENCEPIECE_FILE)
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001  the library raises plain Exception for a damaged file
        raise UserError(
            "the tokenizer in {folder} cannot be read: {error}",
            hint="get the model's files again",
            folder=folder,
            error=describe_os_error(error),
        ) from None
    raise UserError(
        "{folder} has no tokenizer (tokenizer.json, vocab.json with merges.txt, or spiece.model)",
        hint="copy the tokenizer files of the checkpoint it came from into the folder",
        folder=folder,
    )


def _byte_level_bpe(vocab: Path, merges: Path) -> Tokenizer:
    tokenizer = Tokenizer(BPE.from_file(str(vocab), str(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if tokenizer.token_to_id(END_OF_TEXT) is not None:
        tokenizer.add_special_tokens([AddedToken(END_OF_TEXT, special=True, normalized=False)])
    return tokenizer


def _end_of_text_id(folder: Path, hf_config: dict[str, Any], tokenizer: Tokenizer) -> int:
    configured = hf_config.get("eos_token_id")
    if isinstance(configured, list) and configured:
        configured = configured[0]
    if isinstance(configured, int) and tokenizer.id_to_token(configured) is not None:
        return configured
    for token in (_configured_token(folder), END_OF_TEXT):
        token_id = tokenizer.token_to_id(token) if token else None
        if token_id is not None:
            return int(token_id)
    raise UserError(
        "{folder} names no end-of-text token that its tokenizer knows (eos_token_id is {configured!r})",
        hint='set "eos_token_id" in config.json',
        folder=folder,
        configured=configured,
    )


def _configured_token(folder: Path) -> str | None:
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        return None
    try:
        token = parse_json(path.read_text("utf-8")).get("eos_token")
    except (ValueError, AttributeError):
        return None  # tokenizer.json is what counts; a damaged side file only costs this hint
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else None
