"""The sampling kernel against the host's rules, run by `test_sampling_batched.py` under Triton's interpreter."""

import sys
import warnings

import numpy as np
import torch
import triton
import triton.language as tl
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tunesmith.generation import sampling_triton
from tunesmith.generation.sampling import SamplingParams, sample_token
from tunesmith.generation.sampling_batched import BatchedSamplingParams

warnings.filterwarnings("ignore", category=RuntimeWarning)  # infinities, in numpy instead of on a GPU
ROUNDING = 1e-6
"""Of a mass: what lies so near to a border may fall on either side."""
RULES = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.3, 0.8, 1.0, 2.0]),
    top_k=st.integers(0, 40),
    top_p=st.sampled_from([0.05, 0.5, 0.93, 1.0]),
    min_p=st.sampled_from([0.0, 0.02, 0.3, 1.0]),
)


@triton.jit
def highest_kept(below_ptr, out_ptr, top_k_ptr, top_p_ptr, n_columns, width, BLOCK: tl.constexpr):
    """What the search finds, in memory."""
    top_k, top_p = tl.load(top_k_ptr), tl.load(top_p_ptr)
    tl.store(out_ptr, sampling_triton._highest_kept(below_ptr, n_columns, width, top_k, top_p, BLOCK))


def drawn(logits_NV: np.ndarray, rules: list[SamplingParams], uniform_N: np.ndarray) -> list[int]:
    """By the kernel."""
    of = BatchedSamplingParams.of(rules, logits_NV.shape[1])
    values = (of.temperature_N1, of.is_greedy_N, of.top_k_N1, of.top_p_N1, of.log_min_p_N1)
    return sampling_triton.launch(torch.from_numpy(logits_NV), *values, torch.from_numpy(uniform_N)).tolist()


def check_draws(logits_NV: np.ndarray, rules: list[SamplingParams], uniform_N: np.ndarray) -> None:
    """Every row draws what the host draws, whatever rows stand beside it."""
    together = drawn(logits_NV, rules, uniform_N)
    for row, token in enumerate(together):
        chances = [float(np.clip(uniform_N[row] + by, 0, 1 - 1e-9)) for by in (-ROUNDING, 0, ROUNDING)]
        assert token in [sample_token(logits_NV[row], rules[row], chance) for chance in chances]
    assert drawn(logits_NV[-1:], rules[-1:], uniform_N[-1:]) == together[-1:]


def check_kept(below_V: np.ndarray, top_k: int, top_p: float) -> None:
    """Exactly the tokens that a sort keeps, or the next group of equal ones where a mass is within rounding of top_p.

    The oracle sums in double precision, the likeliest first.
    """
    n_columns, width = len(below_V), -(-len(below_V) // 64) * 64
    scratch, found = torch.full((width,), torch.inf), torch.zeros(1, dtype=torch.int32)
    scratch[:n_columns] = torch.from_numpy(below_V)
    rules = torch.tensor([top_k], dtype=torch.int32), torch.tensor([top_p])
    highest_kept[(1,)](scratch, found, *rules, n_columns, width, BLOCK=sampling_triton.BLOCK_COLUMNS)
    kept = set(np.flatnonzero(below_V <= found.view(torch.float32).item()))
    ranked = np.sort(below_V)
    ranked = ranked[ranked <= ranked[top_k - 1]]
    reached = np.exp(-ranked.astype(np.float64)).cumsum()
    allowed = []
    for share in (np.float32(top_p) - ROUNDING, np.float32(top_p), np.float32(top_p) + ROUNDING):
        last = min(int((reached[:-1] < share * reached[-1]).sum()), len(ranked) - 1) if top_p < 1 else len(ranked) - 1
        allowed.append(set(np.flatnonzero(below_V <= ranked[last])))
    assert kept in allowed, (kept, allowed)


@settings(max_examples=25, phases=[Phase.generate], deadline=None, database=None, derandomize=True)
@given(
    rules=st.lists(RULES, min_size=1, max_size=3),
    vocab_size=st.integers(1, 100),
    seed=st.integers(0, 2**32),
    steps=st.sampled_from([0, 1, 4]),
)
def check_small(rules: list[SamplingParams], vocab_size: int, seed: int, steps: int) -> None:
    """Small vocabularies, with many equal logits and with impossible tokens."""
    random = np.random.default_rng(seed)
    logits_NV = random.normal(scale=3, size=(len(rules), vocab_size)).astype(np.float32)
    if steps:
        logits_NV = np.round(logits_NV * steps) / np.float32(steps)
    logits_NV[:, 1:][random.random((len(rules), vocab_size - 1)) < 0.2] = -np.inf
    check_draws(logits_NV, rules, random.random(len(rules)))
    one = rules[0]
    below_V = (logits_NV[0].max() - logits_NV[0]) / np.float32(one.temperature or 1.0)
    check_kept(below_V, min(one.top_k or vocab_size, vocab_size), one.top_p)


sampling_triton.BLOCK_COLUMNS = 64  # small ones fill one, the largest two of them
check_small()
last = drawn(
    np.array([[3.0, 1.0, 2.0, -9.0, -9.0]], np.float32), [SamplingParams(1.0, 3, 1.0)], np.array([1 - 2.0**-53])
)
assert last == [2]
sampling_triton.BLOCK_COLUMNS = 8192
generator = np.random.default_rng(7)
whole = (generator.normal(scale=2.5, size=(3, 50257)) - 100).astype(np.float32)
check_draws(
    whole,
    [SamplingParams(1.0, 0, 1.0), SamplingParams(0.8, 50, 0.95), SamplingParams(1.0, 0, 0.9, 0.001)],
    generator.random(3),
)
check_kept(whole[0].max() - whole[0], 50257, 0.9)
check_kept(whole[1].max() - whole[1], 1000, 0.7)
sys.stdout.write("equal\n")
