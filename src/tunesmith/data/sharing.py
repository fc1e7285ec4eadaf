"""A step's windows dealt to several processes, so that all of them have the same work.

Which windows a step learns from does not depend on how many processes share it. Each gets about as many tokens, packed
into as many micro-batches as the others: they gather and reduce at the same moments. A process that has nothing left
for one of them computes a window of which nothing is to be learned.
"""

from dataclasses import dataclass

import numpy as np

from tunesmith.data.dealing import deal
from tunesmith.data.stretches import Int64s


@dataclass(frozen=True)
class Share:
    """One process's part of every step.

    Attributes:
        rank: its number, from 0.
        size: how many processes there are.
        tokens: of one of its micro-batches at most, unless a window is longer.
    """

    rank: int
    size: int
    tokens: int


def dealt_to_processes(lengths: Int64s, share: Share) -> list[list[Int64s]]:
    """For each process its micro-batches, each by the positions of its windows; the same number for all.

    Args:
        lengths: of the windows of a step.
        share: of one of the processes.
    """
    positions = np.argsort(-lengths, kind="stable")
    n_busy = min(share.size, len(positions))
    process_of = deal(lengths[positions], n_busy)
    of_processes = [positions[process_of == rank] for rank in range(n_busy)]
    packed = [_packed(some, lengths, share.tokens) for some in of_processes]
    most = max(map(len, packed))
    nothing = np.zeros(0, np.int64)
    packed += [[] for _ in range(share.size - n_busy)]
    return [batches + [nothing] * (most - len(batches)) for batches in packed]


def _packed(positions: Int64s, lengths: Int64s, tokens: int) -> list[Int64s]:
    """Into as few micro-batches as hold them, all about as full."""
    own = lengths[positions]
    number = min(max(-(-int(own.sum()) // tokens), 1), len(own))
    while True:
        dealt = deal(own, number)
        if number == len(own) or np.bincount(dealt, own).max() <= tokens:
            return [positions[dealt == one] for one in range(number)]
        number += 1
