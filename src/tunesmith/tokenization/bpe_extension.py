"""Extend a byte-level BPE: more merges, trained from where the tokenizer's own training ended.

New merges come after all old ones, so a text is first cut as before, and then adjacent pieces are merged. Any text
still decodes exactly, and any program that reads merges reads these. New words become merges, not "added tokens": those
are cut out of a text before it is tokenized, inside longer words as well, and decode wrongly if they contain letters
that the byte-level alphabet has too. Only special tokens are added.

Reference: Sennrich et al. 2016, "Neural Machine Translation of Rare Words with Subword Units", continued on the ids of
an existing tokenizer.
"""

import heapq
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from tokenizers import Tokenizer

from tunesmith.data.tokenizer import TextTokenizer
from tunesmith.errors import UserError
from tunesmith.i18n import say
from tunesmith.utils.files import to_json

MIN_TIMES = 2
"""A pair that occurs once is not a pattern."""

Pair = tuple[int, int]
Words = Counter[tuple[int, ...]]
"""How often each pre-token occurs, as ids."""


@dataclass
class NewMerges:
    """Merges that were trained.

    Attributes:
        vocab: old and new entries.
        first_id: of the new ones.
        pairs: merged entries, in order.
        pieces: for each new id the old ids that it consists of.
    """

    vocab: dict[str, int]
    first_id: int
    pairs: list[tuple[str, str]] = field(default_factory=list)
    pieces: dict[int, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._entries = {token_id: entry for entry, token_id in self.vocab.items()}

    @property
    def next_id(self) -> int:
        """Id of the next entry."""
        return self.first_id + len(self.pieces)

    def merge(self, pair: Pair) -> int:
        """Merge two entries; return the id of the result, which the vocabulary may have had already."""
        left, right = (self._entries[token_id] for token_id in pair)
        self.pairs.append((left, right))
        merged = self.vocab.get(left + right)
        if merged is None:
            merged = self.next_id
            self.vocab[left + right], self._entries[merged] = merged, left + right
            self.pieces[merged] = self._old_pieces(pair[0]) + self._old_pieces(pair[1])
        return merged

    def _old_pieces(self, token_id: int) -> tuple[int, ...]:
        return self.pieces.get(token_id, (token_id,))


def learn_merges(new: NewMerges, words: Mapping[tuple[int, ...], int], max_entries: int | None) -> None:
    """Merge the most frequent pair again and again.

    Args:
        new: is extended.
        words: how often each pre-token occurs, as ids; nothing is merged across its ends.
        max_entries: number of new entries; None continues until every word is one token, however rare.
    """
    min_times = 1 if max_entries is None else MIN_TIMES
    corpus = _Pairs(words)
    n_before = len(new.pieces)
    while max_entries is None or len(new.pieces) - n_before < max_entries:
        pair = corpus.most_frequent(min_times)
        if pair is None:
            return
        corpus.replace(pair, new.merge(pair))


class _Pairs:
    """Words as lists of ids, with the counts of adjacent pairs."""

    def __init__(self, words: Mapping[tuple[int, ...], int]) -> None:
        self._words = [list(word) for word in words]
        self._times = list(words.values())
        self._count: Counter[Pair] = Counter()
        self._where: defaultdict[Pair, set[int]] = defaultdict(set)
        for index, word in enumerate(self._words):
            self._count_pairs(index, word, 1)
        self._queue = [(-count, pair) for pair, count in self._count.items()]
        heapq.heapify(self._queue)

    def most_frequent(self, min_times: int) -> Pair | None:
        """Return the most frequent pair, of equal ones that with the smallest ids; None below `min_times`."""
        while self._queue:
            negative, pair = self._queue[0]
            if -negative != self._count[pair]:  # outdated
                heapq.heappop(self._queue)
                continue
            return pair if -negative >= min_times else None
        return None

    def replace(self, pair: Pair, merged: int) -> None:
        """Replace every occurrence of a pair by one id."""
        changed: set[Pair] = {pair}
        for index in tuple(self._where[pair]):
            word = self._words[index]
            changed |= self._count_pairs(index, word, -1)
            self._words[index] = word = list(_replaced(word, pair, merged))
            changed |= self._count_pairs(index, word, 1)
        for changed_pair in changed:
            if self._count[changed_pair] > 0:
                heapq.heappush(self._queue, (-self._count[changed_pair], changed_pair))
            else:
                del self._count[changed_pair]
                self._where.pop(changed_pair, None)

    def _count_pairs(self, index: int, word: list[int], sign: int) -> set[Pair]:
        pairs = set()
        for pair in pairwise(word):
            pairs.add(pair)
            self._count[pair] += sign * self._times[index]
            if sign > 0:
                self._where[pair].add(index)
            else:
                self._where[pair].discard(index)
        return pairs


def _replaced(word: list[int], pair: Pair, merged: int) -> Iterator[int]:
    position = 0
    while position < len(word):
        if tuple(word[position : position + 2]) == pair:
            yield merged
            position += 2
        else:
            yield word[position]
            position += 1


def check_is_byte_level_bpe(tokenizer: TextTokenizer) -> None:
    """Check that merges can be added."""
    if tokenizer.bytes_of_token is None or _content(tokenizer)["model"].get("type") != "BPE":
        raise UserError(
            "the tokenizer in {folder} is not a byte-level BPE, the only kind that can be extended",
            hint="train one of your own: tunesmith tokenizer train FILE --out DIR; then train --from-scratch",
            folder=tokenizer.folder,
        )


def check_special_tokens(tokens: Sequence[str], tokenizer: TextTokenizer) -> None:
    """Check that each can be one token that decodes to itself."""
    known = set(new_merges(tokenizer).vocab)
    for number, token in enumerate(tokens):
        reason = ""
        if not token.isascii() or not token.isprintable() or not token.strip() or " " in token:
            reason = say("letters, digits and signs of ASCII only, no spaces")
        elif token in known or token in tokens[:number]:
            reason = say("the vocabulary has it already")
        if reason:
            raise UserError(
                "--special-tokens {token!r} cannot be: {reason}",
                hint='name it like "<|user|>"',
                token=token,
                reason=reason,
            )


def new_merges(tokenizer: TextTokenizer) -> NewMerges:
    """Return an empty extension; the first new id is the one after the tokenizer's last."""
    content = _content(tokenizer)
    vocab = dict(content["model"]["vocab"]) | {token["content"]: token["id"] for token in content["added_tokens"]}
    return NewMerges(vocab, tokenizer.vocab_size)


def extend_bpe(tokenizer: TextTokenizer, new: NewMerges, special_tokens: Mapping[str, int]) -> TextTokenizer:
    """Return a tokenizer with new merges and special tokens.

    Args:
        tokenizer: the old one.
        new: its vocabulary becomes the new one's, special tokens excepted.
        special_tokens: with their ids.
    """
    content = _content(tokenizer)
    model = content["model"]
    old = model["merges"]
    # added tokens are in it too, as in GPT-2's own: no gaps, and no second numbering that could differ
    model["vocab"] = {**new.vocab, **special_tokens}
    are_lists = not old or isinstance(old[0], list)
    model["merges"] = [*old, *([left, right] if are_lists else f"{left} {right}" for left, right in new.pairs)]
    options = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    content["added_tokens"] += [
        {"id": token_id, "content": token, **options} for token, token_id in special_tokens.items()
    ]
    extended = Tokenizer.from_str(to_json(content))
    return TextTokenizer(extended, end_of_text_id=tokenizer.end_of_text_id, folder=tokenizer.folder)


def count_words(tokenizer: TextTokenizer, texts: Iterable[str]) -> Words:
    """Count how often each pre-token occurs in texts."""
    plain = Tokenizer.from_str(tokenizer.json)
    strings: Counter[str] = Counter()
    for text in texts:
        normal = plain.normalizer.normalize_str(text) if plain.normalizer else text
        strings.update(string for string, _ in plain.pre_tokenizer.pre_tokenize_str(normal))
    words = Words()
    for string, times in strings.items():
        words[tuple(token.id for token in plain.model.tokenize(string))] += times
    return words


def _content(tokenizer: TextTokenizer) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(tokenizer.json)
    return content
