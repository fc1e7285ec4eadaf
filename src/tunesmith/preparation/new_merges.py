"""More merges for a byte-level BPE: learning goes on where the tokenizer's own training ended.

New merges come behind all old ones, so a text is first cut as before, and then only what stands side by side grows
together. Any text still comes back exactly, and any program that reads merges reads these.

Reference: Sennrich et al. 2016, "Neural Machine Translation of Rare Words with Subword Units", continued on the ids of
an existing tokenizer.
"""

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

FEWEST_TIMES = 2
"""What stands in a text once is no pattern."""

Pair = tuple[int, int]


@dataclass
class NewMerges:
    """What was learned.

    Attributes:
        vocab: of the tokenizer, old and new entries.
        first_id: of the new ones.
        pairs: two entries that grow together, in their order.
        pieces: for each new id the old ids that it was made of.
    """

    vocab: dict[str, int]
    first_id: int
    pairs: list[tuple[str, str]] = field(default_factory=list)
    pieces: dict[int, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._entries = {token_id: entry for entry, token_id in self.vocab.items()}

    @property
    def next_id(self) -> int:
        """Of the next entry."""
        return self.first_id + len(self.pieces)

    def merge(self, pair: Pair) -> int:
        """Let two entries grow together; the id of what they make, which the vocabulary may have had already."""
        left, right = (self._entries[token_id] for token_id in pair)
        self.pairs.append((left, right))
        made = self.vocab.get(left + right)
        if made is None:
            made = self.next_id
            self.vocab[left + right], self._entries[made] = made, left + right
            self.pieces[made] = self._old_pieces(pair[0]) + self._old_pieces(pair[1])
        return made

    def _old_pieces(self, token_id: int) -> tuple[int, ...]:
        return self.pieces.get(token_id, (token_id,))


def learn_merges(new: NewMerges, words: Mapping[tuple[int, ...], int], most: int | None) -> None:
    """Merge the most frequent pair again and again.

    Args:
        new: grows.
        words: how often each stretch of ids stands in the text; nothing grows over its ends.
        most: so many new entries; None goes on until every word is one token, however rare.
    """
    fewest = 1 if most is None else FEWEST_TIMES
    corpus = _Pairs(words)
    started = len(new.pieces)
    while most is None or len(new.pieces) - started < most:
        pair = corpus.most_frequent(fewest)
        if pair is None:
            return
        corpus.join(pair, new.merge(pair))


class _Pairs:
    """Words as lists of ids, and how often each pair of neighbours stands in them."""

    def __init__(self, words: Mapping[tuple[int, ...], int]) -> None:
        self._words = [list(word) for word in words]
        self._times = list(words.values())
        self._count: Counter[Pair] = Counter()
        self._where: defaultdict[Pair, set[int]] = defaultdict(set)
        for index, word in enumerate(self._words):
            self._see(index, word, 1)
        self._queue = [(-count, pair) for pair, count in self._count.items()]
        heapq.heapify(self._queue)

    def most_frequent(self, fewest: int) -> Pair | None:
        """The pair with the most places, of equal ones the one with the smallest ids; None below `fewest`."""
        while self._queue:
            negative, pair = self._queue[0]
            if -negative != self._count[pair]:  # it was counted again since
                heapq.heappop(self._queue)
                continue
            return pair if -negative >= fewest else None
        return None

    def join(self, pair: Pair, made: int) -> None:
        """Put one id in the place of two, wherever they stand."""
        changed: set[Pair] = {pair}
        for index in tuple(self._where[pair]):
            word = self._words[index]
            changed |= self._see(index, word, -1)
            self._words[index] = word = list(_joined(word, pair, made))
            changed |= self._see(index, word, 1)
        for one in changed:
            if self._count[one] > 0:
                heapq.heappush(self._queue, (-self._count[one], one))
            else:
                del self._count[one]
                self._where.pop(one, None)

    def _see(self, index: int, word: list[int], sign: int) -> set[Pair]:
        seen = set()
        for pair in pairwise(word):
            seen.add(pair)
            self._count[pair] += sign * self._times[index]
            if sign > 0:
                self._where[pair].add(index)
            else:
                self._where[pair].discard(index)
        return seen


def _joined(word: list[int], pair: Pair, made: int) -> Iterator[int]:
    place = 0
    while place < len(word):
        if tuple(word[place : place + 2]) == pair:
            yield made
            place += 2
        else:
            yield word[place]
            place += 1
