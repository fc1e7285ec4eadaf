"""Perplexity over every token exactly once.

Every token of every sample, the first one and the end-of-text after the last included, is predicted once; the first
one from the end-of-text before it, which is how GPT-2 saw documents begin. A sample longer than the context is read
through several windows: adjacent and of nearly equal length, where a window's first token sees only its predecessor
(during training), or overlapping, a stride apart, where what one window has predicted is given in the next. The sum of
nats is divided by the number of tokens of the whole text, so that no batch or sample weighs more than its tokens do.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from torch import Tensor

from tunesmith.data.corpus import Split
from tunesmith.data.dataloader import Batch, pack_batches
from tunesmith.data.packing import Windows, pack_greedy, sliding_windows, windows_of
from tunesmith.data.spans import Int64s
from tunesmith.distributed.world import SINGLE_PROCESS, World
from tunesmith.i18n import LazyString, say
from tunesmith.model.attention import PackedLayout, forward_packed, select_rows, to_model_device
from tunesmith.model.compile import inference_mode
from tunesmith.model.gpt2 import GPT2
from tunesmith.model.loss import token_cross_entropy
from tunesmith.utils.oom import in_pieces

Floats = npt.NDArray[np.float64]
Interval = tuple[float, float]

RESAMPLES = 1000
"""Bootstrap samples: reference Efron & Tibshirani 1993, chapter 13 (percentile interval)."""
PERCENTILES = (2.5, 97.5)
"""Ends of a 95 % interval."""
METHOD = LazyString(
    "every token once, end-of-text included; samples separate, each after an end-of-text; "
    "samples longer than the context in windows of nearly equal length, without overlap"
)
MAX_LOSS = 709.0
"""The exponential of more does not fit a float."""


def sliding_method(context_length: int, stride: int) -> str:
    """Describe evaluation with sliding windows."""
    n_seen = context_length - stride
    if not n_seen:
        return say(
            "every token once, end-of-text included; samples separate, each after an end-of-text, from which its "
            "first token is predicted; samples longer than {context_length} tokens in windows of that length, so that "
            "each token sees its own window only",
            context_length=context_length,
        )
    return say(
        "every token once, end-of-text included; samples separate, each after an end-of-text, from which its first "
        "token is predicted; samples longer than {context_length} tokens in windows that begin {stride} apart, "
        "so that each token sees at least {n_seen} before it",
        context_length=context_length,
        stride=stride,
        n_seen=n_seen,
    )


@dataclass(frozen=True)
class Evaluation:
    """Cross-entropy of a model on a text.

    Attributes:
        sample_nats: float64 [samples], summed cross-entropy of each sample.
        sample_tokens: int64 [samples], tokens of each sample with its end-of-text, without its prompt.
        text_bytes: UTF-8 bytes of everything that was predicted.
    """

    sample_nats: npt.NDArray[np.float64]
    sample_tokens: Int64s
    text_bytes: int

    @property
    def tokens(self) -> int:
        return int(self.sample_tokens.sum())

    @property
    def loss(self) -> float:
        """Mean cross-entropy, in nats per token."""
        return float(self.sample_nats.sum()) / self.tokens

    @property
    def perplexity(self) -> float:
        """Exponential of the loss; infinite where it is too large for a float."""
        return math.exp(self.loss) if self.loss < MAX_LOSS else math.inf

    @property
    def bits_per_byte(self) -> float:
        """Bits per byte, comparable between tokenizers; the nats of end-of-text count, its bytes are 0."""
        return float(self.sample_nats.sum()) / math.log(2) / self.text_bytes


def evaluate_split(
    model: GPT2,
    split: Split,
    *,
    context_length: int,
    tokens_per_batch: int,
    stride: int | None = None,
    world: World = SINGLE_PROCESS,
    in_step: bool = False,
) -> Evaluation:
    """Measure a model on a split of a corpus; in smaller batches where memory runs out.

    Args:
        model: on its device; dropout is off here whatever mode it is in.
        split: what to measure on.
        context_length: longest window.
        tokens_per_batch: changes the time and nothing else.
        stride: distance between the starts of windows over a longer sample; None cuts it into windows of nearly
            equal length without overlap.
        world: processes that share the work; each gets the result of all.
        in_step: whether all of them must compute the same number of batches, because the model is sharded.
    """
    tokens_per_batch = max(tokens_per_batch // world.size, 1)  # so that a short text has something for all of them
    if stride is None:
        windows = windows_of(split.spans, context_length)
    else:
        windows = sliding_windows(split.spans, context_length, stride)
    groups = list(pack_greedy(windows.lengths, tokens_per_batch))
    own = groups[world.rank :: world.size]
    sample_nats, _ = in_pieces(
        lambda pieces: _sample_nats(model, split, windows, own, max(tokens_per_batch // pieces, 1)),
        pieces=1,
        most=tokens_per_batch,
        what=say("a single window to measure"),
        hint=say("free memory, or take a shorter --context-length or a smaller model"),
    )
    if in_step and len(own) < len(groups[:: world.size]):  # the others gather weights once more than this process
        _sample_nats(model, split, windows, groups[-1:], tokens_per_batch)
    return Evaluation(
        world.all_reduce_array(sample_nats),
        split.spans.lengths.astype(np.int64) - split.spans.prompt_tokens,
        split.text_bytes,
    )


def _sample_nats(
    model: GPT2, split: Split, windows: Windows, groups: Sequence[Int64s], tokens_per_batch: int
) -> npt.NDArray[np.float64]:
    """Return the summed cross-entropy of each sample, as far as it is in these groups of windows."""
    sample_nats, longest = np.zeros(split.n_samples), int(windows.lengths.max(initial=0))
    with inference_mode(model):
        for group in groups:
            in_group = windows[group]
            parts = pack_greedy(in_group.lengths, tokens_per_batch)
            for part, batch in zip(parts, pack_batches(split, in_group, tokens_per_batch, longest), strict=True):
                nats_M = _batch_nats(model, batch).double().cpu().numpy()
                sample_M = np.repeat(in_group.sample_ids[part], in_group.lengths[part])[batch.target_positions]
                np.add.at(sample_nats, sample_M, nats_M)
    return sample_nats


def _batch_nats(model: GPT2, batch: Batch) -> Tensor:
    """Return the cross-entropy of each predicted token of a batch, fp32 [M]."""
    layout = PackedLayout(batch.cu_seqlens, batch.max_seqlen)
    hidden_NC = forward_packed(model, batch.tokens, batch.positions, layout)
    hidden_MC, targets_M = select_rows(hidden_NC, batch.target_positions), to_model_device(model, batch.targets)
    return token_cross_entropy(hidden_MC, model.head_VC, targets_M, model.config.vocab_size)


def perplexity_interval(evaluation: Evaluation, *, seed: int) -> Interval | None:
    """Return the 95 % bootstrap interval of the perplexity over samples, or None for a single sample."""
    sums_KD = resampled_sums(np.stack([evaluation.sample_nats, evaluation.sample_tokens]), seed=seed)
    return None if sums_KD is None else interval_of(as_perplexity(sums_KD[0] / sums_KD[1]))


def as_perplexity(losses: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return perplexities; infinite where they are too large for a float."""
    with np.errstate(over="ignore"):
        return np.exp(losses)


def resampled_sums(columns_KS: npt.NDArray[np.number], *, seed: int) -> Floats | None:
    """Return sums of K columns over S samples drawn with replacement, [K, draws]; None for a single sample."""
    _, n_samples = columns_KS.shape
    if n_samples < 2:
        return None
    random = np.random.default_rng(seed)
    sums_KD = np.empty((len(columns_KS), RESAMPLES))
    for draw in range(RESAMPLES):
        sums_KD[:, draw] = columns_KS[:, random.integers(n_samples, size=n_samples)].sum(axis=1)
    return sums_KD


def interval_of(draws_D: Floats) -> Interval:
    """Return the 95 % percentile interval of a statistic, from its draws."""
    # nothing lies between two infinite draws
    method: Literal["linear", "nearest"] = "linear" if np.isfinite(draws_D).all() else "nearest"
    low, high = np.percentile(draws_D, PERCENTILES, method=method)
    return float(low), float(high)
