"""Sampling on the device, for many sequences at once and without a host sync: the parameters of `sampling`.

The host's implementation looks for candidates row by row; here everything is done with whole rows, which a GPU
prefers: by one Triton kernel (`sampling_triton.py`), or in plain torch where there is none. All sample the same token
from the same random number, up to the rounding of sums.

Shapes: N sequences, V vocabulary.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tunesmith.generation.kv_cache import copy_to_device
from tunesmith.generation.sampling import SamplingParams
from tunesmith.model.loss import has_triton


@dataclass(frozen=True)
class BatchedSamplingParams:
    """The sampling parameters of N sequences, a value a row.

    Attributes:
        temperature_N1: fp32; 1 where the likeliest token is taken.
        is_greedy_N: bool.
        top_k_N1: int64, V where all are kept.
        top_p_N1: fp32, 1 where all are kept.
        log_min_p_N1: fp32, -infinity where all are kept.
        penalty_N1: fp32, 1 where nothing is penalized.
        sorts: whether any row needs its logits in order.
        penalizes: whether any row has a penalty.
    """

    temperature_N1: Tensor
    is_greedy_N: Tensor
    top_k_N1: Tensor
    top_p_N1: Tensor
    log_min_p_N1: Tensor
    penalty_N1: Tensor
    sorts: bool
    penalizes: bool

    @classmethod
    def of(cls, params: Sequence[SamplingParams], vocab_size: int) -> "BatchedSamplingParams":
        """Collect parameters on the host."""

        def column(values: list[float], dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.tensor(values, dtype=dtype)[:, None]

        return cls(
            temperature_N1=column([it.temperature or 1.0 for it in params]),
            is_greedy_N=column([it.temperature == 0 for it in params], torch.bool)[:, 0],
            top_k_N1=column([min(it.top_k or vocab_size, vocab_size) for it in params], torch.int64),
            top_p_N1=column([it.top_p for it in params]),
            log_min_p_N1=column([math.log(it.min_p) if it.min_p > 0 else -math.inf for it in params]),
            penalty_N1=column([it.repetition_penalty for it in params]),
            sorts=any(it.temperature > 0 and (0 < it.top_k < vocab_size or it.top_p < 1) for it in params),
            penalizes=any(it.repetition_penalty != 1 for it in params),
        )

    @property
    def _columns(self) -> dict[str, Tensor]:
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}

    def to(self, device: torch.device, *, sorts: bool, penalizes: bool) -> "BatchedSamplingParams":
        """Copy to a device, prepared for parameters that need these, whether the present ones do or not."""
        columns = {name: copy_to_device(column, device) for name, column in self._columns.items()}
        return replace(self, **columns, sorts=sorts, penalizes=penalizes)

    def copy_(self, other: "BatchedSamplingParams") -> None:
        """Copy the values of others, on the same device or on the host, into these tensors."""
        for name, column in self._columns.items():
            column.copy_(copy_to_device(getattr(other, name), column.device), non_blocking=True)


def sample_tokens(logits_NV: Tensor, params: BatchedSamplingParams, uniform_N: Tensor) -> Tensor:
    """Sample a token for every row, int64 [N].

    Args:
        logits_NV: fp32, -infinity for excluded tokens; penalties have been applied (`apply_repetition_penalty`).
        params: a row each.
        uniform_N: float64, the random number of each row from [0, 1).
    """
    if logits_NV.is_cuda and has_triton():
        from tunesmith.generation.sampling_triton import launch

        return launch(
            logits_NV,
            params.temperature_N1,
            params.is_greedy_N,
            params.top_k_N1,
            params.top_p_N1,
            params.log_min_p_N1,
            uniform_N,
        )
    likeliest_N = logits_NV.argmax(dim=1)
    below_NV = (logits_NV - logits_NV.amax(dim=1, keepdim=True)) / params.temperature_N1
    lowest_N1 = params.log_min_p_N1
    if params.sorts:
        lowest_N1 = torch.maximum(lowest_N1, _lowest_kept_N1(below_NV, params))
    weights_NV = torch.where(below_NV >= lowest_N1, below_NV.exp(), 0.0)
    reached_NV = weights_NV.cumsum(dim=1, dtype=torch.float64)
    drawn_N1 = torch.searchsorted(reached_NV, uniform_N[:, None] * reached_NV[:, -1:], right=True)
    # rounding cannot carry the draw beyond the last token that is kept
    last_kept_N = torch.searchsorted(reached_NV, reached_NV[:, -1:].contiguous())[:, 0]
    return torch.where(params.is_greedy_N, likeliest_N, torch.minimum(drawn_N1[:, 0], last_kept_N))


def _lowest_kept_N1(below_NV: Tensor, params: BatchedSamplingParams) -> Tensor:
    """Return how far below the likeliest token the last one is that top-k and top-p keep, in nats."""
    sorted_NV = below_NV.sort(dim=1, descending=True).values
    kth_N1 = sorted_NV.gather(1, params.top_k_N1 - 1)
    by_rank_NV = torch.where(sorted_NV >= kth_N1, sorted_NV.exp(), 0.0)
    reached_NV = by_rank_NV.cumsum(dim=1, dtype=torch.float64)
    # a token stays if those above it fall short of top_p
    falls_short_NV = reached_NV[:, :-1] < params.top_p_N1.double() * reached_NV[:, -1:]
    by_mass_N1 = sorted_NV.gather(1, falls_short_NV.sum(dim=1, keepdim=True))
    return torch.where(params.top_p_N1 < 1, torch.maximum(kth_N1, by_mass_N1), kth_N1)


def apply_repetition_penalty(logits_NV: Tensor, params: BatchedSamplingParams, seen_NV: Tensor) -> Tensor:
    """Lower the logits of tokens that are in the sequence already (Keskar et al. 2019, "CTRL"), fp32 [N, V].

    Args:
        logits_NV: fp32.
        params: a row each.
        seen_NV: bool.
    """
    penalized_NV = torch.where(logits_NV < 0, logits_NV * params.penalty_N1, logits_NV / params.penalty_N1)
    return torch.where(seen_NV, penalized_NV, logits_NV)


def token_logprobs(logits_NV: Tensor, tokens_N: Tensor) -> Tensor:
    """Return log-probabilities in nats under the model itself, before any parameter, fp32 [N]."""
    return logits_NV.gather(1, tokens_N[:, None])[:, 0] - logits_NV.logsumexp(dim=1)
