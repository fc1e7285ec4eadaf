"""From logits to tokens where the logits are: the rules of `sampling`, for many rows at once, without a host sync.

The host's way looks for candidates row by row; here everything is done with whole rows, which a GPU prefers: by one
Triton kernel (`sampling_kernel.py`), or in plain torch where there is none. All draw the same token from the same
chance, up to the rounding of sums.

Shapes: N texts, V vocabulary.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tunesmith.generation.sampling import SamplingRules
from tunesmith.model.loss import has_triton


@dataclass(frozen=True)
class DeviceRules:
    """The rules of N texts, a value a row.

    Attributes:
        temperature_N1: fp32; 1 where the likeliest token is taken.
        is_greedy_N: bool.
        top_k_N1: int64, V where all are kept.
        top_p_N1: fp32, 1 where all are kept.
        log_min_p_N1: fp32, -infinity where all are kept.
        penalty_N1: fp32, 1 where nothing is penalised.
        sorts: whether any row needs its logits in order.
        penalises: whether any row has a penalty.
    """

    temperature_N1: Tensor
    is_greedy_N: Tensor
    top_k_N1: Tensor
    top_p_N1: Tensor
    log_min_p_N1: Tensor
    penalty_N1: Tensor
    sorts: bool
    penalises: bool

    @classmethod
    def of(cls, rules: Sequence[SamplingRules], vocab_size: int, device: torch.device) -> "DeviceRules":
        """Bring rules to a device."""

        def column(values: list[float], dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.tensor(values, dtype=dtype).to(device, non_blocking=True)[:, None]

        return cls(
            temperature_N1=column([one.temperature or 1.0 for one in rules]),
            is_greedy_N=column([one.temperature == 0 for one in rules], torch.bool)[:, 0],
            top_k_N1=column([min(one.top_k or vocab_size, vocab_size) for one in rules], torch.int64),
            top_p_N1=column([one.top_p for one in rules]),
            log_min_p_N1=column([math.log(one.min_p) if one.min_p > 0 else -math.inf for one in rules]),
            penalty_N1=column([one.repetition_penalty for one in rules]),
            sorts=any(one.temperature > 0 and (0 < one.top_k < vocab_size or one.top_p < 1) for one in rules),
            penalises=any(one.repetition_penalty != 1 for one in rules),
        )

    def with_switches(self, *, sorts: bool, penalises: bool) -> "DeviceRules":
        """Prepared for rules that need these, whether the ones held now do or not."""
        return replace(self, sorts=sorts, penalises=penalises)

    def become(self, other: "DeviceRules") -> None:
        """Take another's values into these tensors."""
        for name in ("temperature_N1", "is_greedy_N", "top_k_N1", "top_p_N1", "log_min_p_N1", "penalty_N1"):
            getattr(self, name).copy_(getattr(other, name))


def choose_tokens(logits_NV: Tensor, rules: DeviceRules, uniform_N: Tensor) -> Tensor:
    """Choose a token for every row, int64 [N].

    Args:
        logits_NV: fp32, -infinity for what may not be chosen; penalties have been applied (`penalised`).
        rules: a row each.
        uniform_N: float64, chance of each row from [0, 1).
    """
    if logits_NV.is_cuda and has_triton():
        from tunesmith.generation.sampling_kernel import launch

        return launch(
            logits_NV,
            rules.temperature_N1,
            rules.is_greedy_N,
            rules.top_k_N1,
            rules.top_p_N1,
            rules.log_min_p_N1,
            uniform_N,
        )
    likeliest_N = logits_NV.argmax(dim=1)
    below_NV = (logits_NV - logits_NV.amax(dim=1, keepdim=True)) / rules.temperature_N1
    lowest_N1 = rules.log_min_p_N1
    if rules.sorts:
        lowest_N1 = torch.maximum(lowest_N1, _lowest_kept_N1(below_NV, rules))
    weights_NV = torch.where(below_NV >= lowest_N1, below_NV.exp(), 0.0)
    reached_NV = weights_NV.cumsum(dim=1, dtype=torch.float64)
    drawn_N1 = torch.searchsorted(reached_NV, uniform_N[:, None] * reached_NV[:, -1:], right=True)
    # rounding cannot carry the draw behind the last token that is kept
    last_kept_N = torch.searchsorted(reached_NV, reached_NV[:, -1:].contiguous())[:, 0]
    return torch.where(rules.is_greedy_N, likeliest_N, torch.minimum(drawn_N1[:, 0], last_kept_N))


def _lowest_kept_N1(below_NV: Tensor, rules: DeviceRules) -> Tensor:
    """How far below the likeliest token the last one lies that top-k and top-p keep, in nats."""
    sorted_NV = below_NV.sort(dim=1, descending=True).values
    kth_N1 = sorted_NV.gather(1, rules.top_k_N1 - 1)
    by_rank_NV = torch.where(sorted_NV >= kth_N1, sorted_NV.exp(), 0.0)
    reached_NV = by_rank_NV.cumsum(dim=1, dtype=torch.float64)
    # a token stays if those above it fall short of top_p
    falls_short_NV = reached_NV[:, :-1] < rules.top_p_N1.double() * reached_NV[:, -1:]
    by_mass_N1 = sorted_NV.gather(1, falls_short_NV.sum(dim=1, keepdim=True))
    return torch.where(rules.top_p_N1 < 1, torch.maximum(kth_N1, by_mass_N1), kth_N1)


def penalised(logits_NV: Tensor, rules: DeviceRules, seen_NV: Tensor) -> Tensor:
    """Logits of tokens that stand in the text already, made worse (Keskar et al. 2019, "CTRL"), [N, V].

    Args:
        logits_NV: fp32.
        rules: a row each.
        seen_NV: bool.
    """
    worse_NV = torch.where(logits_NV < 0, logits_NV * rules.penalty_N1, logits_NV / rules.penalty_N1)
    return torch.where(seen_NV, worse_NV, logits_NV)


def logprobs_of(logits_NV: Tensor, tokens_N: Tensor) -> Tensor:
    """Log-probabilities in nats under the model itself, before any rule, fp32 [N]."""
    return logits_NV.gather(1, tokens_N[:, None])[:, 0] - logits_NV.logsumexp(dim=1)
