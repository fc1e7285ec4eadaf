"""Packing loses nothing, adds nothing, and finds its place by arithmetic."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.data.batches import TrainingOrder, packed
from tunesmith.data.corpus import Split
from tunesmith.data.stretches import Stretches
from tunesmith.data.windows import windows_of

LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=40)


def make_split(lengths: list[int], prompt_share: float = 0.0) -> Split:
    """Samples of these lengths whose tokens are their own indices, so that every token is recognisable."""
    offsets = np.concatenate([[1], 1 + np.cumsum(lengths)])
    prompts = (np.array(lengths) * prompt_share).astype(np.int64)
    stretches = Stretches(offsets[:-1], np.array(lengths), prompts, np.zeros_like(prompts))
    return Split(np.arange(offsets[-1], dtype=np.uint32), stretches, text_bytes=0)


@given(lengths=LENGTHS, context=st.integers(1, 70), per_step=st.integers(1, 300), extra=st.integers(0, 100))
def test_every_token_once_an_epoch(lengths: list[int], context: int, per_step: int, extra: int) -> None:
    """Each token is a target once, behind its predecessor, at a position inside the context, in full steps only."""
    split = make_split(lengths)
    order = TrainingOrder(
        split, context_tokens=context, tokens_per_step=per_step, tokens_per_micro_batch=context + extra, seed=5
    )
    seen: Counter[int] = Counter()
    for step in range(order.steps_per_epoch):
        batches = order.batches(step)
        assert batches
        for batch in batches:
            assert 0 < batch.n_tokens <= context + extra
            assert (batch.tokens == batch.targets - 1).all()
            seen.update(batch.targets.tolist())
            for start, end in zip(batch.offsets, batch.offsets[1:], strict=False):
                assert batch.positions[start:end].tolist() == list(range(end - start))
                assert end - start <= context
                assert (np.diff(batch.targets[start:end]) == 1).all()
    assert seen == Counter(range(1, sum(lengths) + 1))


@given(lengths=LENGTHS, context=st.integers(1, 70), share=st.sampled_from([0.3, 0.9]))
def test_prompts_are_read_and_not_predicted(lengths: list[int], context: int, share: float) -> None:
    """Each token behind a prompt is predicted once, none of a prompt is, and what is read stays in order."""
    split = make_split(lengths, share)
    order = TrainingOrder(split, context_tokens=context, tokens_per_step=50, tokens_per_micro_batch=context, seed=5)
    predicted: Counter[int] = Counter()
    for step in range(order.steps_per_epoch):
        for batch in order.batches(step):
            assert len(batch.targets) == len(batch.rows) > 0
            assert (batch.tokens[batch.rows] == batch.targets - 1).all()
            predicted.update(batch.targets.tolist())
    stretches = split.stretches
    wanted = [
        range(s + p, e) for s, e, p in zip(stretches.starts, stretches.ends, stretches.prompt_tokens, strict=True)
    ]
    assert predicted == Counter(int(token) for stretch in wanted for token in stretch)


@given(lengths=LENGTHS, context=st.integers(1, 70))
def test_windows_are_few_and_even(lengths: list[int], context: int) -> None:
    """A sample has as few windows as fit, their lengths differ by one at most, and they continue one another."""
    windows = windows_of(make_split(lengths).stretches, context)
    for sample, length in enumerate(lengths):
        mine = windows.samples == sample
        assert mine.sum() == -(-length // context)
        assert windows.lengths[mine].max() - windows.lengths[mine].min() <= 1
        assert windows.lengths[mine].sum() == length
        assert (windows.starts[mine][1:] == (windows.starts + windows.lengths)[mine][:-1]).all()


@given(lengths=LENGTHS, per_batch=st.integers(1, 100))
def test_packing_puts_equal_lengths_together(lengths: list[int], per_batch: int) -> None:
    """Windows go longest first, and only a window that is too long by itself exceeds a batch."""
    split = make_split(lengths)
    batches = list(packed(split, windows_of(split.stretches, 60), per_batch))
    packed_lengths = [np.diff(batch.offsets).tolist() for batch in batches]
    assert [n for batch in packed_lengths for n in batch] == sorted(lengths, reverse=True)
    assert all(sum(batch) <= per_batch or len(batch) == 1 for batch in packed_lengths)


def targets(order: TrainingOrder, step: int) -> list[list[int]]:
    """What a step learns."""
    return [batch.targets.tolist() for batch in order.batches(step)]


def test_order_is_arithmetic() -> None:
    """A step's batches follow from seed and step number alone, whatever was asked before; epochs and seeds differ."""
    split = make_split(list(range(1, 40)))
    settings = {"context_tokens": 64, "tokens_per_step": 100, "tokens_per_micro_batch": 64}
    order, again, other = (TrainingOrder(split, seed=seed, **settings) for seed in (1, 1, 2))
    epoch = order.steps_per_epoch
    forward = [targets(order, step) for step in range(3 * epoch)]
    backward = [targets(again, step) for step in reversed(range(3 * epoch))]
    assert forward == backward[::-1]
    assert forward[:epoch] != forward[epoch : 2 * epoch]
    assert forward[0] != targets(other, 0)


def test_steps_are_nearly_equal() -> None:
    """An epoch is divided evenly: no step is off by more than a sample's length."""
    split = make_split([10] * 100 + [30] * 20)
    order = TrainingOrder(split, context_tokens=64, tokens_per_step=150, tokens_per_micro_batch=512, seed=0)
    sizes = [sum(batch.n_tokens for batch in order.batches(step)) for step in range(order.steps_per_epoch)]
    assert order.steps_per_epoch == round(1600 / 150)
    assert all(abs(size - 1600 / order.steps_per_epoch) <= 30 for size in sizes)
