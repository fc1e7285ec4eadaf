"""Perplexity over every token exactly once.

Every token of every sample, the first one and the end-of-text behind the last included, is predicted once;
the first one from the end-of-text before it, which is how GPT-2 saw documents begin. A sample longer than
the context is read through several windows: next to each other and of nearly equal length, where a window's first
token sees only its predecessor (during training), or overlapping, a stride apart, where what one window has predicted
is given in the next. The sum of nats is divided by the number of tokens of the whole text, so that no batch or sample
weighs more than its tokens do.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from tunesmith.data.batches import Batch, packed, packed_indices
from tunesmith.data.corpus import Split
from tunesmith.data.stretches import Int64s
from tunesmith.data.windows import Windows, sliding_windows, windows_of
from tunesmith.distributed.world import SINGLE_PROCESS, World
from tunesmith.evaluation.bootstrap import Interval, interval_of, resampled_sums
from tunesmith.messages.catalogue import Phrase, say
from tunesmith.model.attention import DocumentLayout
from tunesmith.model.gpt2 import GPT2
from tunesmith.model.loss import nats_of_each_token
from tunesmith.model.packed import hidden_states, inference, on_device_of, rows_of
from tunesmith.out_of_memory import in_pieces

METHOD = Phrase(
    "every token once, end-of-text included; samples separate, each behind an end-of-text; "
    "samples longer than the context in windows of nearly equal length, without overlap"
)
LARGEST_NATS = 709.0
"""The exponential of more does not fit a float."""


def sliding_method(context_tokens: int, stride_tokens: int) -> str:
    """How a verb that slides says it in words."""
    seen = context_tokens - stride_tokens
    if not seen:
        return say(
            "every token once, end-of-text included; samples separate, each behind an end-of-text, from which its "
            "first token is predicted; samples longer than {context_tokens} tokens in windows of so many, so that "
            "each token sees its own window only",
            context_tokens=context_tokens,
        )
    return say(
        "every token once, end-of-text included; samples separate, each behind an end-of-text, from which its first "
        "token is predicted; samples longer than {context_tokens} tokens in windows that begin {stride_tokens} apart, "
        "so that each token sees at least {seen} before it",
        context_tokens=context_tokens,
        stride_tokens=stride_tokens,
        seen=seen,
    )


@dataclass(frozen=True)
class Evaluation:
    """What a model makes of a text.

    Attributes:
        sample_nats: float64 [samples], summed cross-entropy of each sample.
        sample_tokens: int64 [samples], tokens of each sample with its end-of-text, without its prompt.
        text_bytes: UTF-8 bytes of all that was predicted.
    """

    sample_nats: npt.NDArray[np.float64]
    sample_tokens: Int64s
    text_bytes: int

    @property
    def tokens(self) -> int:
        return int(self.sample_tokens.sum())

    @property
    def nats_per_token(self) -> float:
        return float(self.sample_nats.sum()) / self.tokens

    @property
    def perplexity(self) -> float:
        """Infinite where the model is so wrong that no float holds it."""
        return math.exp(self.nats_per_token) if self.nats_per_token < LARGEST_NATS else math.inf

    @property
    def bits_per_byte(self) -> float:
        """Comparable between models with different tokenizers; the nats of end-of-text count, its bytes are 0."""
        return float(self.sample_nats.sum()) / math.log(2) / self.text_bytes


def evaluate_split(
    model: GPT2,
    split: Split,
    *,
    context_tokens: int,
    tokens_per_batch: int,
    stride_tokens: int | None = None,
    world: World = SINGLE_PROCESS,
    in_step: bool = False,
) -> Evaluation:
    """Measure a model on a split of a corpus; in smaller batches where memory runs out.

    Args:
        model: on its device; dropout is off here whatever mode it is in.
        split: what to measure on.
        context_tokens: longest window.
        tokens_per_batch: tokens computed at once; changes the time and nothing else.
        stride_tokens: how far apart windows over a longer sample begin; None cuts it into windows of nearly equal
            length without overlap.
        world: processes that share the work; each gets what all of them measured.
        in_step: whether each of them has to compute as many batches, because each holds only a part of the model.
    """
    tokens_per_batch = max(tokens_per_batch // world.size, 1)  # so that a short text has something for all of them
    if stride_tokens is None:
        windows = windows_of(split.stretches, context_tokens)
    else:
        windows = sliding_windows(split.stretches, context_tokens, stride_tokens)
    groups = list(packed_indices(windows.lengths, tokens_per_batch))
    own = groups[world.rank :: world.size]
    sample_nats, _ = in_pieces(
        lambda pieces: _sample_nats(model, split, windows, own, max(tokens_per_batch // pieces, 1)),
        pieces=1,
        most=tokens_per_batch,
        what=say("a single window to measure"),
        hint=say("free memory, or take a shorter --context-tokens or a smaller model"),
    )
    if in_step and len(own) < len(groups[:: world.size]):  # the others gather weights once more than this process
        _sample_nats(model, split, windows, groups[-1:], tokens_per_batch)
    return Evaluation(
        world.all_reduce_array(sample_nats),
        split.stretches.lengths.astype(np.int64) - split.stretches.prompt_tokens,
        split.text_bytes,
    )


def _sample_nats(
    model: GPT2, split: Split, windows: Windows, groups: Sequence[Int64s], tokens_per_batch: int
) -> npt.NDArray[np.float64]:
    """Summed cross-entropy of each sample, as far as it is in some groups of windows."""
    sample_nats, longest = np.zeros(split.n_samples), int(windows.lengths.max(initial=0))
    with inference(model):
        for group in groups:
            some = windows[group]
            parts = packed_indices(some.lengths, tokens_per_batch)
            for part, batch in zip(parts, packed(split, some, tokens_per_batch, longest), strict=True):
                nats_M = _nats_of(model, batch).double().cpu().numpy()
                sample_M = np.repeat(some.samples[part], some.lengths[part])[batch.rows]
                np.add.at(sample_nats, sample_M, nats_M)
    return sample_nats


def _nats_of(model: GPT2, batch: Batch) -> Tensor:
    """Cross-entropy of everything that a batch predicts, fp32 [M]."""
    layout = DocumentLayout(batch.offsets, batch.longest)
    hidden_NC = hidden_states(model, batch.tokens, batch.positions, layout)
    hidden_MC, targets_M = rows_of(hidden_NC, batch.rows), on_device_of(model, batch.targets)
    return nats_of_each_token(hidden_MC, model.head_VC, targets_M, model.config.vocab_size)


def confidence_interval(evaluation: Evaluation, *, seed: int) -> Interval | None:
    """95 % bootstrap interval of the perplexity over samples, or None for a single sample."""
    sums_KD = resampled_sums(np.stack([evaluation.sample_nats, evaluation.sample_tokens]), seed=seed)
    return None if sums_KD is None else interval_of(as_perplexity(sums_KD[0] / sums_KD[1]))


def as_perplexity(nats_per_token: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Infinite where no float holds it."""
    with np.errstate(over="ignore"):
        return np.exp(nats_per_token)
