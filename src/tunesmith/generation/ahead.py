"""Texts go on where the model is: a token is chosen on the card, read again at once, and told to the host later.

The host would wait for every token, and the card for the host's answer. Here the host launches a step before it has
seen the results of the last one; what it needs for that, each text's chance, does not depend on them. On CUDA a step is
one graph, recorded for a number of texts and a reach of attention and played again.

Shapes: B texts for which a step is made, the ones that are written and idle places; V vocabulary.
"""

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from tunesmith.generation.cache import DecodeAttention, KeyValueCache
from tunesmith.generation.captured import Recorder
from tunesmith.generation.device_sampling import DeviceRules, choose_tokens, logprobs_of, penalised
from tunesmith.generation.sampling import SamplingRules
from tunesmith.model.gpt2 import GPT2

REACH_AT_A_TIME = 256
"""Steps are made for a multiple of so many positions."""


@dataclass(frozen=True)
class Going:
    """A text that goes on.

    Attributes:
        tokens: all that stand in it; the last one is not read yet.
        rules: how its tokens are chosen.
        tokens_before_end: so many come before end-of-text may.
    """

    tokens: list[int]
    rules: SamplingRules
    tokens_before_end: int


@dataclass(frozen=True)
class _Results:
    """Of a step, on their way to the host: [B] each."""

    tokens: Tensor
    logprobs: Tensor
    arrived: "torch.cuda.Event | None"


class Ahead:
    """Steps of the texts in the first places of a cache, launched ahead of their results.

    Args:
        model: on its device.
        logits: hidden states [N, C] to logits [N, V] in fp32.
        cache: where the texts stand; its `lengths` are those of the host, and are counted when results are taken.
        end_of_text_id: cannot come before a text's time.
    """

    def __init__(
        self, model: GPT2, logits: Callable[[Tensor], Tensor], cache: KeyValueCache, end_of_text_id: int
    ) -> None:
        self._model = model
        self._logits = logits
        self._cache = cache
        self._end_of_text_id = end_of_text_id
        self._device = model.head_VC.device
        self._recorder = Recorder(self._device) if self._device.type == "cuda" else None
        self._newest: torch.cuda.Event | None = None
        self._steps: dict[tuple[int, int, bool, bool], _Step] = {}
        self._step: _Step | None = None
        self._texts: Sequence[Going] = ()
        self._under_way: deque[_Results] = deque()

    @property
    def is_going(self) -> bool:
        """Whether texts have begun."""
        return bool(self._texts)

    @property
    def steps_under_way(self) -> int:
        """Launched, and not taken."""
        return len(self._under_way)

    def begin(self, texts: Sequence[Going]) -> None:
        """Let the texts in the first places of the cache go on from what the host knows of them."""
        self._texts = texts
        self._step = None

    def launch(self, chances: Sequence[float]) -> None:
        """One more token of every text, each by its chance; there must be a position left for it."""
        longest = max(self._cache.lengths[: len(self._texts)]) + len(self._under_way) + 1
        reach = min(-(-longest // REACH_AT_A_TIME) * REACH_AT_A_TIME, self._cache.positions)
        before = self._step
        with torch.cuda.device(self._device) if self._device.type == "cuda" else nullcontext():
            if before is None or before.reach != reach:
                self._step = self._step_for(reach)
                if before is None:
                    self._step.load(self._texts, self._cache.lengths)
                else:
                    self._step.go_on_from(before)
            assert self._step is not None
            results = self._step.run(chances, self._recorder)
            self._under_way.append(results)
            self._newest = results.arrived

    def take(self) -> list[tuple[int, float]]:
        """The oldest results: of each text its token, and the log-probability of that in nats under the bare model."""
        results = self._under_way.popleft()
        if results.arrived is not None:
            results.arrived.synchronize()
        for place in range(len(self._texts)):
            self._cache.lengths[place] += 1
        pairs = zip(results.tokens.tolist(), results.logprobs.tolist(), strict=True)
        return list(pairs)[: len(self._texts)]

    def stop(self) -> None:
        """Forget what is under way: the host's lengths hold again, and what stands behind them is never looked at."""
        self._under_way.clear()
        self._texts = ()

    def close(self) -> None:
        """Wait for the newest step: graphs and their memory must not go while one of them runs."""
        self.stop()
        if self._newest is not None:
            self._newest.synchronize()
            self._newest = None

    def _step_for(self, reach: int) -> "_Step":
        rules = DeviceRules.of([text.rules for text in self._texts], self._model.config.vocab_size, torch.device("cpu"))
        slots = min(1 << (len(self._texts) - 1).bit_length(), len(self._cache.lengths))
        key = (slots, reach, rules.sorts, rules.penalises)
        if key not in self._steps:
            self._steps[key] = _Step(
                self._model, self._logits, self._cache, self._end_of_text_id, slots, reach, rules.sorts, rules.penalises
            )
        return self._steps[key]


class _Step:
    """One token of each of B texts: everything it reads and writes stays where it is, so that it can be recorded."""

    def __init__(
        self,
        model: GPT2,
        logits: Callable[[Tensor], Tensor],
        cache: KeyValueCache,
        end_of_text_id: int,
        slots: int,
        reach: int,
        sorts: bool,  # noqa: FBT001
        penalises: bool,  # noqa: FBT001
    ) -> None:
        device, vocab_size = model.head_VC.device, model.config.vocab_size
        self.reach = reach
        self._model, self._logits, self._cache = model, logits, cache
        self._end_of_text_id = end_of_text_id
        self._slots = slots
        idle = SamplingRules(0.0, 0, 1.0)
        self._idle = Going([0], idle, 0)
        self.rules = DeviceRules.of([idle] * slots, vocab_size, device).with_switches(sorts=sorts, penalises=penalises)
        self._tokens_B = torch.zeros(slots, dtype=torch.int64, device=device)
        self._lengths_B = torch.zeros(slots, dtype=torch.int64, device=device)
        self._before_end_B = torch.zeros(slots, dtype=torch.int64, device=device)
        self._uniform_B = torch.zeros(slots, dtype=torch.float64, device=device)
        self._logprobs_B = torch.zeros(slots, dtype=torch.float32, device=device)
        seen_rows = slots if penalises else 0
        self._seen_BV = torch.zeros((seen_rows, vocab_size), dtype=torch.bool, device=device)
        self._work: Callable[[], None] | None = None

    @property
    def state(self) -> list[Tensor]:
        """What one step leaves for the next."""
        return [self._tokens_B, self._lengths_B, self._before_end_B, self._seen_BV]

    def load(self, texts: Sequence[Going], lengths: Sequence[int]) -> None:
        """Begin from what the host knows; places without a text are idle, and what they compute is for nobody."""
        n_idle = self._slots - len(texts)
        padded = [*texts, *[self._idle] * n_idle]
        self._fill(self._tokens_B, [text.tokens[-1] for text in padded])
        self._fill(self._lengths_B, [*lengths[: len(texts)], *[0] * n_idle])
        self._fill(self._before_end_B, [text.tokens_before_end for text in padded])
        self.rules.become(DeviceRules.of([text.rules for text in padded], self._model.config.vocab_size, self._device))
        if len(self._seen_BV):
            seen_BV = torch.zeros(self._seen_BV.shape, dtype=torch.bool)
            for row, text in enumerate(texts):
                seen_BV[row, torch.tensor(text.tokens)] = True
            self._seen_BV.copy_(seen_BV)

    def go_on_from(self, other: "_Step") -> None:
        """Take over where another step, of a shorter reach, has got to; nobody waits."""
        for mine, its in zip(self.state, other.state, strict=True):
            mine.copy_(its)
        self.rules.become(other.rules)

    def run(self, chances: Sequence[float], recorder: Recorder | None) -> _Results:
        """Launch the step, on a GPU as a graph; its results are on their way then."""
        self._fill(self._uniform_B, [*chances, *[0.0] * (self._slots - len(chances))])
        if self._work is None:
            self._work = self._compute if recorder is None else recorder.captured(self._compute, self.state)
        self._work()
        if recorder is None:
            return _Results(self._tokens_B.clone(), self._logprobs_B.clone(), None)
        tokens_B, logprobs_B = (
            torch.empty(t_B.shape, dtype=t_B.dtype, pin_memory=True).copy_(t_B, non_blocking=True)
            for t_B in (self._tokens_B, self._logprobs_B)
        )
        arrived = torch.cuda.Event()
        arrived.record(torch.cuda.current_stream(self._device))
        return _Results(tokens_B, logprobs_B, arrived)

    def _compute(self) -> None:
        attend = DecodeAttention(self._cache, self._lengths_B, self.reach)
        logits_BV = self._logits(self._model(self._tokens_B, self._lengths_B, attend.of_layer))
        weighed_BV = penalised(logits_BV, self.rules, self._seen_BV) if self.rules.penalises else logits_BV.clone()
        end_B = weighed_BV[:, self._end_of_text_id] if self._end_of_text_id < weighed_BV.shape[1] else None
        if end_B is not None:
            end_B.masked_fill_(self._before_end_B > 0, -torch.inf)
        chosen_B = choose_tokens(weighed_BV, self.rules, self._uniform_B)
        self._logprobs_B.copy_(logprobs_of(logits_BV, chosen_B))
        self._tokens_B.copy_(chosen_B)
        self._lengths_B.add_(1)
        self._before_end_B.sub_(1)
        if self.rules.penalises:
            self._seen_BV.scatter_(1, chosen_B[:, None], value=True)

    @property
    def _device(self) -> torch.device:
        return self._tokens_B.device

    def _fill(self, static_B: Tensor, values: Sequence[float]) -> None:
        """Bring numbers to where a recorded step looks for them."""
        numbers = torch.tensor(values, dtype=static_B.dtype)
        static_B.copy_(numbers.pin_memory() if static_B.is_cuda else numbers, non_blocking=True)
