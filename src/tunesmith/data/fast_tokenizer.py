"""Fast tokenization with gigatoken (12 times fewer CPU seconds), checked against `tokenizers`.

`tokenizers` is the reference. gigatoken is used for large texts only, after it agreed with the reference on a fixed
set of difficult strings, and it is checked again on samples of every chunk of the text. At the first difference the
reference is used for the rest.
"""

import os
from itertools import pairwise

import numpy as np

from tunesmith.data.spans import Int64s
from tunesmith.data.tokenizer import SAFE_BORDER, TextTokenizer, TokenIds, safe_pieces
from tunesmith.i18n import LazyString

PIECE_CHARACTERS = 1 << 19
"""Long documents are split into pieces of this size where that changes no id, so that every core has work."""
LARGE_TEXT_BYTES = 4 << 20
"""Below this size the reference is done before gigatoken is loaded."""
HAS_IDLE_CORES = (os.cpu_count() or 1) > 2
"""Two cores are busy already, one reads the next texts; more threads would only fill more caches."""
CHECKED_SAMPLES = 16
CHECKED_CHARACTERS = 1024
AWKWARD = [
    "",
    " ",
    "  two  spaces  ",
    "it's we'll I'd they've DON'T",
    "tabs\t\tand\nlines\n\n\n  indented",
    "12345 6.789e-10 1,000,000",
    "caf\u00e9 na\u00efve \u00df \u0130",
    "\u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8\u3001\u5409\u7530\u3055\u3093",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 \u2602\ufe0f",
    "a\u00a0b\u2009c\u3000d\u2028e\x85f\x0cg",
    "<|endoftex|> <|im_start|> [MASK]",
    "\x00\x01\x7f",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
]


class FastTokenizer:
    """Encoder of many texts with the ids of a reference tokenizer.

    Attributes:
        path: "gigatoken" or "tokenizers".
        reason: why.
    """

    def __init__(self, reference: TextTokenizer, *, text_bytes: int) -> None:
        self._reference = reference
        self.path, self.reason = "tokenizers", LazyString("the text is small")
        if text_bytes >= LARGE_TEXT_BYTES:
            self._try_fast_path()

    def encode_packed(self, texts: list[str]) -> tuple[TokenIds, Int64s]:
        """Encode texts: concatenated ids, and the number of ids of each text."""
        if self.path == "tokenizers":
            return self._reference.encode_packed(texts)
        ids, counts = self._encode_fast(texts)
        if self._differs(texts, ids, counts):
            self._fall_back(LazyString("gigatoken gave other ids than tokenizers on this text"))
            return self._reference.encode_packed(texts)
        return ids, counts

    def _try_fast_path(self) -> None:
        try:
            import gigatoken

            self._fast = gigatoken.Tokenizer.from_json(self._reference.json)
        except Exception as error:  # noqa: BLE001  whatever it raises, the reference works
            self._fall_back(LazyString("gigatoken cannot be used: {error}", {"error": str(error)}))
            return
        if not self._reference.may_be_cut:
            self._fall_back(LazyString("the tokenizer is not byte-level as GPT-2's"))
            return
        others = [token for token in self._reference.added_tokens if token != self._reference.end_of_text]
        if others:
            self._fall_back(LazyString("the tokenizer has added tokens ({first!r})", {"first": others[0]}))
            return
        ids, counts = self._encode_fast(AWKWARD)
        expected = self._reference.encode(AWKWARD)
        if [part.tolist() for part in _parts(ids, counts)] != expected:
            self._fall_back(LazyString("gigatoken failed the self-check against tokenizers"))
            return
        self.path, self.reason = "gigatoken", LazyString("large text, and it agrees with tokenizers")

    def _fall_back(self, reason: LazyString) -> None:
        self.path, self.reason = "tokenizers", reason

    def _encode_fast(self, texts: list[str]) -> tuple[TokenIds, Int64s]:
        import awkward

        pieces, pieces_of_text = safe_pieces(texts, PIECE_CHARACTERS)
        encoded = self._fast.encode_batch(pieces, parallel=HAS_IDLE_CORES)
        counts = np.asarray(awkward.num(encoded), np.int64)
        if len(pieces) > len(texts):
            counts = np.add.reduceat(counts, np.cumsum([0, *pieces_of_text[:-1]]))
        return np.asarray(awkward.flatten(encoded), np.uint32), counts

    def _differs(self, texts: list[str], ids: TokenIds, counts: Int64s) -> bool:
        """Compare evenly spread texts of a chunk, or their beginnings, with the reference."""
        chosen = sorted({len(texts) * number // CHECKED_SAMPLES for number in range(CHECKED_SAMPLES)})
        starts = np.cumsum(counts) - counts
        for index, expected in zip(chosen, self._expected([texts[index] for index in chosen]), strict=True):
            whole = len(texts[index]) <= CHECKED_CHARACTERS
            if whole and counts[index] != len(expected):
                return True
            if ids[starts[index] : starts[index] + len(expected)].tolist() != expected:
                return True
        return False

    def _expected(self, texts: list[str]) -> list[list[int]]:
        """Encode texts with the reference, long ones up to a place after which nothing can change their ids."""
        borders = [SAFE_BORDER.search(text, CHECKED_CHARACTERS // 2) for text in texts]
        heads = [
            text if len(text) <= CHECKED_CHARACTERS else text[: border.start()] if border else ""
            for text, border in zip(texts, borders, strict=True)
        ]
        return self._reference.encode(heads)


def _parts(ids: TokenIds, counts: Int64s) -> list[TokenIds]:
    borders = np.concatenate([[0], np.cumsum(counts)]).tolist()
    return [ids[start:end] for start, end in pairwise(borders)]
