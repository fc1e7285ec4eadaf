"""Packing loses nothing, adds nothing, and finds its place by arithmetic."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.data.corpus import Split
from tunesmith.data.dataloader import Batch, TrainBatchSampler, pack_batches
from tunesmith.data.packing import EpochLayout, Mixture, balance_windows, plan_micro_batches, windows_of
from tunesmith.data.spans import Int64s, TokenSpans

LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=40)


def make_split(lengths: list[int], prompt_share: float = 0.0) -> Split:
    """Samples of these lengths whose tokens are their own indices, so that every token is recognizable."""
    offsets = np.concatenate([[1], 1 + np.cumsum(lengths)])
    prompts = (np.array(lengths) * prompt_share).astype(np.int64)
    stretches = TokenSpans(offsets[:-1], np.array(lengths), prompts, np.zeros_like(prompts))
    return Split(np.arange(offsets[-1], dtype=np.uint32), stretches, text_bytes=0)


def make_order(
    split: Split, context: int, per_step: int, most: int, *, seed: int = 5, constant_size: bool = False
) -> tuple[TrainBatchSampler, EpochLayout]:
    """The order of a run, and how its epochs are divided."""
    lengths = windows_of(split.spans, context).lengths
    total = int(lengths.sum())
    shape = plan_micro_batches(lengths, epoch_tokens=total, tokens_per_step=per_step, max_tokens=most)
    order = TrainBatchSampler(split, context_length=context, layout=shape, constant_size=constant_size, seed=seed)
    return order, shape


def documents(batch: Batch) -> list[slice]:
    """Where each document of a batch lies."""
    return [slice(start, end) for start, end in zip(batch.cu_seqlens, batch.cu_seqlens[1:], strict=False)]


@given(
    lengths=LENGTHS,
    context=st.integers(1, 70),
    per_step=st.integers(1, 300),
    most=st.integers(1, 300),
    constant_size=st.booleans(),
)
def test_every_token_once_an_epoch(
    lengths: list[int], context: int, per_step: int, most: int, *, constant_size: bool
) -> None:
    """Each token is a target once, behind its predecessor, at a position inside the context; the rest is filling."""
    order, shape = make_order(make_split(lengths), context, per_step, most, constant_size=constant_size)
    seen: Counter[int] = Counter()
    sizes = set()
    for step in range(shape.steps_per_epoch):
        batches = order.batches(step)
        assert len(batches) == shape.per_step
        for batch in batches:
            sizes.add(batch.n_tokens)
            assert len(batch.target_positions) > 0
            assert batch.cu_seqlens[-1] == batch.n_tokens == len(batch.positions)
            assert (batch.tokens[batch.target_positions] == batch.targets - 1).all()
            seen.update(batch.targets.tolist())
            is_learned = np.isin(np.arange(batch.n_tokens), batch.target_positions)
            for document in documents(batch):
                length = document.stop - document.start
                assert batch.positions[document].tolist() == list(range(length))
                assert 0 < length <= min(context, batch.max_seqlen)
                assert is_learned[document].all() or not is_learned[document].any()
                if is_learned[document].all():
                    assert (np.diff(batch.tokens[document]) == 1).all()
    assert seen == Counter(range(1, sum(lengths) + 1))
    assert all(size % 64 == 0 for size in sizes)
    assert not constant_size or sizes == {shape.tokens}


@given(lengths=LENGTHS, context=st.integers(1, 70), share=st.sampled_from([0.3, 0.9]))
def test_prompts_are_read_and_not_predicted(lengths: list[int], context: int, share: float) -> None:
    """Each token behind a prompt is predicted once, none of a prompt is, and what is read stays in order."""
    split = make_split(lengths, share)
    order, shape = make_order(split, context, 50, 300)
    predicted: Counter[int] = Counter()
    for step in range(shape.steps_per_epoch):
        for batch in order.batches(step):
            assert len(batch.targets) == len(batch.target_positions) > 0
            assert (batch.tokens[batch.target_positions] == batch.targets - 1).all()
            predicted.update(batch.targets.tolist())
    stretches = split.spans
    wanted = [
        range(s + p, e) for s, e, p in zip(stretches.starts, stretches.ends, stretches.prompt_tokens, strict=True)
    ]
    assert predicted == Counter(int(token) for stretch in wanted for token in stretch)


@given(lengths=LENGTHS, context=st.integers(1, 70))
def test_windows_are_few_and_even(lengths: list[int], context: int) -> None:
    """A sample has as few windows as fit, their lengths differ by one at most, and they continue one another."""
    windows = windows_of(make_split(lengths).spans, context)
    for sample, length in enumerate(lengths):
        mine = windows.sample_ids == sample
        assert mine.sum() == -(-length // context)
        assert windows.lengths[mine].max() - windows.lengths[mine].min() <= 1
        assert windows.lengths[mine].sum() == length
        assert (windows.starts[mine][1:] == (windows.starts + windows.lengths)[mine][:-1]).all()


@given(lengths=LENGTHS, per_batch=st.integers(1, 100))
def test_packing_puts_equal_lengths_together(lengths: list[int], per_batch: int) -> None:
    """Windows go longest first, and only a window that is too long by itself exceeds a batch."""
    split = make_split(lengths)
    batches = list(pack_batches(split, windows_of(split.spans, 60), per_batch))
    ends = [int(batch.target_positions[-1]) + 1 for batch in batches]
    packed_lengths = [
        [document.stop - document.start for document in documents(batch) if document.stop <= end]
        for batch, end in zip(batches, ends, strict=True)
    ]
    assert [n for batch in packed_lengths for n in batch] == sorted(lengths, reverse=True)
    assert all(sum(batch) <= per_batch or len(batch) == 1 for batch in packed_lengths)


def targets(order: TrainBatchSampler, step: int) -> list[list[int]]:
    """What a step learns."""
    return [batch.targets.tolist() for batch in order.batches(step)]


def test_order_is_arithmetic() -> None:
    """A step's batches follow from seed and step number alone, whatever was asked before; epochs and seeds differ."""
    split = make_split(list(range(1, 40)))
    (order, shape), (again, _), (other, _) = (make_order(split, 64, 100, 64, seed=seed) for seed in (1, 1, 2))
    epoch = shape.steps_per_epoch
    forward = [targets(order, step) for step in range(3 * epoch)]
    backward = [targets(again, step) for step in reversed(range(3 * epoch))]
    assert forward == backward[::-1]
    assert forward[:epoch] != forward[epoch : 2 * epoch]
    assert forward[0] != targets(other, 0)


REAL_SHAPES = {
    "titles": (np.random.default_rng(1).integers(5, 20, 2000), 256, 0.97),
    "answers": (np.random.default_rng(2).normal(150, 50, 7000).clip(20, 600).astype(int), 4096, 0.99),
    "verse": (np.random.default_rng(3).lognormal(3.4, 0.9, 6500).clip(2, 1000).astype(int), 1024, 0.99),
    "novels": (np.full(800, 1020), 4096, 0.99),
}


@pytest.mark.parametrize("name", REAL_SHAPES)
def test_hardly_anything_is_filling(name: str) -> None:
    """Sets shaped like real ones fill their micro-batches, and steps are equal in tokens."""
    lengths, per_step, at_least = REAL_SHAPES[name]
    order, shape = make_order(make_split(lengths.tolist()), 1024, per_step, 4096, constant_size=True)
    sizes = [sum(len(batch.target_positions) for batch in order.batches(step)) for step in range(shape.steps_per_epoch)]
    assert sum(sizes) >= at_least * shape.steps_per_epoch * shape.per_step * shape.tokens
    assert max(sizes) <= per_step
    assert min(sizes[:-1]) >= 0.9 * max(sizes)


def test_every_batch_holds_long_and_short_ones() -> None:
    """Batches are not sorted by length: each holds some of the longer half and some of the shorter one."""
    lengths = REAL_SHAPES["answers"][0]
    order, shape = make_order(make_split(lengths.tolist()), 1024, 4096, 4096)
    middle = np.median(lengths)
    for step in range(shape.steps_per_epoch):
        (batch,) = order.batches(step)
        shares = np.mean([document.stop - document.start > middle for document in documents(batch)])
        assert 0.2 < shares < 0.8


def test_a_small_text_keeps_the_batch_that_was_asked() -> None:
    """Where an epoch is a step or a few, micro-batches get smaller, not steps."""
    lengths = np.random.default_rng(5).integers(5, 60, 150)
    total = int(lengths.sum())
    for per_step, steps in ((100_000, 1), (total, 1), (total // 3, 3)):
        shape = plan_micro_batches(lengths, epoch_tokens=total, tokens_per_step=per_step, max_tokens=1024)
        assert shape.steps_per_epoch == steps
        assert shape.tokens <= 1024
        assert shape.per_step <= total / steps / 1024 + 2


@given(
    lengths=st.lists(st.integers(1, 300), min_size=2, max_size=40),
    weights=st.tuples(st.sampled_from([1.0, 0.3, 0.7, 1.6]), st.sampled_from([1.0, 0.3, 0.7, 1.6])),
    per_step=st.integers(64, 2000),
    most=st.integers(64, 600),
    pieces=st.integers(1, 6),
)
def test_no_micro_batch_is_larger_than_planned(
    lengths: list[int], weights: tuple[float, float], per_step: int, most: int, pieces: int
) -> None:
    """In every epoch of a mixture, dealt into pieces or not: all as large as planned, and every window is in one."""
    split = make_split(lengths)
    sources = np.arange(len(lengths)) % 2
    stretches = TokenSpans(split.spans.starts, split.spans.lengths, split.spans.prompt_tokens, sources)
    split = Split(split.tokens, stretches, text_bytes=0, weights=weights)
    windows = windows_of(stretches, 1024)
    mixture = Mixture(windows, weights, seed=5)
    of_first_epoch = windows.lengths[mixture.order(0)]
    shape = plan_micro_batches(of_first_epoch, epoch_tokens=mixture.n_tokens, tokens_per_step=per_step, max_tokens=most)
    longest = max(lengths)
    largest = 64 * -(-max(shape.tokens // pieces, longest) // 64)
    order = TrainBatchSampler(split, context_length=1024, layout=shape, constant_size=True, seed=5)
    for epoch in range(3):
        seen = Counter[int]()
        for step in range(shape.steps_per_epoch):
            batches = order.batches(epoch * shape.steps_per_epoch + step, pieces)
            assert {batch.n_tokens for batch in batches} == {largest}
            seen.update(int(target) for batch in batches for target in batch.targets)
        wanted = Counter[int]()
        for window in mixture.order(epoch):
            start = int(windows.starts[window])
            wanted.update(range(start, start + int(windows.lengths[window])))
        assert seen == wanted


def test_where_chance_deals_too_full_nothing_is_left_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """An epoch that chance never deals within the plan is dealt by lengths alone: none is fuller then."""
    lengths = [int(length) for length in np.random.default_rng(8).integers(1, 64, 200)]
    order, shape = make_order(make_split(lengths), 64, 512, 256, constant_size=True)

    def unlucky(lengths: Int64s, n_batches: int, rng: np.random.Generator | None = None) -> Int64s:
        if rng is None:
            return balance_windows(lengths, n_batches)
        return np.minimum(np.arange(len(lengths)), n_batches - 1)

    monkeypatch.setattr("tunesmith.data.dataloader.balance_windows", unlucky)
    for step in range(shape.steps_per_epoch):
        assert [batch.n_tokens for batch in order.batches(step)] == [shape.tokens] * shape.per_step


def test_a_step_that_must_stay_whole_gets_more_steps_instead() -> None:
    """Where gradients are used up in the backward pass a second micro-batch would need room for them."""
    found_split = 0
    for seed in range(60):
        lengths = np.random.default_rng(seed).integers(30, 64, 25)
        total = int(lengths.sum())
        asked = {"epoch_tokens": total, "tokens_per_step": total // 3, "max_tokens": 64 * -(-(total // 3) // 64)}
        found_split += plan_micro_batches(lengths, **asked).per_step > 1
        whole = plan_micro_batches(lengths, **asked, stays_whole=True)
        assert whole.per_step == 1
        assert whole.tokens <= asked["max_tokens"]
    assert found_split
