"""Samples into windows, none longer than the context.

A sample longer than the context is cut into windows of nearly equal length that continue one another, or, to be
measured with more to go by, read through windows that overlap; each window is a document of its own, with positions
from 0.
"""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from tunesmith.data.stretches import Int64s, Stretches

SAMPLES_AT_A_TIME = 1 << 20


@dataclass(frozen=True)
class Windows:
    """Stretches of target tokens, none longer than the context.

    Attributes:
        starts: int64, index of the first target in the corpus's tokens.
        lengths: int64, targets in the window.
        samples: int64, which sample of the split it belongs to.
        prompt_tokens: int64, targets at the start that are given and not predicted; fewer than `lengths`.
        sources: which SOURCE it comes from.
    """

    starts: Int64s
    lengths: Int64s
    samples: Int64s
    prompt_tokens: Int64s
    sources: npt.NDArray[np.integer[Any]]

    def __getitem__(self, chosen: Int64s | npt.NDArray[np.bool_]) -> "Windows":
        return Windows(*(getattr(self, column.name)[chosen] for column in fields(self)))

    def __len__(self) -> int:
        return len(self.starts)


def windows_of(stretches: Stretches, context_tokens: int) -> Windows:
    """Cut every sample into as few windows as fit the context, of nearly equal length.

    Windows that hold nothing but prompt are left out: there would be nothing to learn.
    """
    n_tokens = stretches.lengths.astype(np.int64)
    n_windows = -(-n_tokens // context_tokens)
    samples = np.repeat(np.arange(len(stretches)), n_windows)
    number = np.arange(len(samples)) - np.repeat(np.cumsum(n_windows) - n_windows, n_windows)
    shortest, longer_ones = np.divmod(n_tokens, n_windows)
    lengths = shortest[samples] + (number < longer_ones[samples])
    within = number * shortest[samples] + np.minimum(number, longer_ones[samples])
    prompt_tokens = np.clip(stretches.prompt_tokens[samples].astype(np.int64) - within, 0, lengths)
    windows = Windows(stretches.starts[samples] + within, lengths, samples, prompt_tokens, stretches.sources[samples])
    return windows[prompt_tokens < lengths]


def sliding_windows(stretches: Stretches, context_tokens: int, stride_tokens: int) -> Windows:
    """Read every sample through full windows that begin a stride apart; each token is predicted in one of them.

    What an earlier window has predicted is given in a later one, so behind the first window every token sees at least
    `context_tokens - stride_tokens` tokens before it. Windows that hold nothing to predict are left out.
    """
    n_tokens = stretches.lengths.astype(np.int64)
    n_windows = 1 + -(-np.maximum(n_tokens - context_tokens, 0) // stride_tokens)
    samples = np.repeat(np.arange(len(stretches)), n_windows)
    number = np.arange(len(samples)) - np.repeat(np.cumsum(n_windows) - n_windows, n_windows)
    within = number * stride_tokens
    lengths = np.minimum(n_tokens[samples] - within, context_tokens)
    predicted_before = np.where(number > 0, context_tokens - stride_tokens, 0)
    prompt_left = stretches.prompt_tokens[samples].astype(np.int64) - within
    given = np.clip(np.maximum(prompt_left, predicted_before), 0, lengths)
    windows = Windows(stretches.starts[samples] + within, lengths, samples, given, stretches.sources[samples])
    return windows[given < lengths]


def count_windows(stretches: Stretches, context_tokens: int) -> int:
    """How many windows there are, in little memory however many samples."""
    firsts = range(0, len(stretches), SAMPLES_AT_A_TIME)
    portions = (stretches[first : first + SAMPLES_AT_A_TIME] for first in firsts)
    if stretches.prompt_tokens.any():
        return sum(len(windows_of(some, context_tokens)) for some in portions)
    return sum(int((-(-some.lengths.astype(np.int64) // context_tokens)).sum()) for some in portions)
