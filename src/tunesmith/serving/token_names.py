"""Tokens as strings, as OpenAI writes them: a part of a character is `bytes:` and its bytes in hexadecimal."""

import re

from tunesmith.data.tokenizer import BYTE_LEVEL_ALPHABET, TextTokenizer

BYTE_OF_CHARACTER = {character: byte for byte, character in BYTE_LEVEL_ALPHABET.items()}
BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")
"""How sentencepiece vocabularies write a byte."""


class TokenNames:
    """Looks names up; each one is made once."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._tokenizer = tokenizer
        self._names: dict[int, str] = {}

    def __getitem__(self, token: int) -> str:
        if token not in self._names:
            self._names[token] = self._name(token)
        return self._names[token]

    def _name(self, token: int) -> str:
        text = self._tokenizer.decode([token])
        if "\ufffd" not in text:
            return text
        entry = self._tokenizer.entry(token)
        if found := BYTE_PIECE.fullmatch(entry):
            return f"bytes:\\x{found[1].lower()}"
        if not all(character in BYTE_OF_CHARACTER for character in entry):
            return text
        return "bytes:" + "".join(f"\\x{BYTE_OF_CHARACTER[character]:02x}" for character in entry)
