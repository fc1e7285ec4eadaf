"""Write texts: requests in, continuations out, side by side, without padding, each as if it were alone.

A text that ends gives its place to the next one at once. Every text has its own chance, drawn from its own seed, so
what it becomes depends on its seed and prompt and not on its neighbours. A text ends at end-of-text, where its watch
says so, or at its length limit. Where the model's positions end, the last half of them is read again and the text goes
on.
"""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing

from torch import Tensor

from tunesmith.errors import UserError
from tunesmith.generation.ahead import Ahead, Going
from tunesmith.generation.cache import KeyValueCache
from tunesmith.generation.decoder import Decoder
from tunesmith.generation.request import Continuation, Request
from tunesmith.generation.sampling import Floats, SamplingRules
from tunesmith.generation.unfinished_text import UnfinishedText
from tunesmith.model.compile import inference_mode
from tunesmith.model.gpt2 import GPT2

STEPS_AHEAD = 2
"""Launched before the oldest one's results are looked at."""


class Engine:
    """Texts that are being written, and those that wait.

    Args:
        model: on its device, in evaluation mode or not: dropout is off here.
        end_of_text_id: ends a text.
        texts_at_once: most that are written side by side.
        positions: longest text with its prompt; beyond the model's own, texts slide.
        logits: hidden states to logits; the model's own unless its head is packed.
        ahead: whether tokens are chosen where the model is and steps launched ahead of results; by itself on a card.
    """

    def __init__(
        self,
        model: GPT2,
        *,
        end_of_text_id: int,
        texts_at_once: int,
        positions: int,
        logits: Callable[[Tensor], Tensor] | None = None,
        ahead: bool | None = None,
    ) -> None:
        self._model = model
        self._end_of_text_id = end_of_text_id
        self._n_positions = min(positions, model.config.n_positions)
        self._texts_at_once = texts_at_once
        self._cache = KeyValueCache(model, texts=texts_at_once, positions=self._n_positions)
        logits = logits or model.logits
        self._decoder = Decoder(model, logits, self._cache)
        goes_ahead = model.head_VC.is_cuda if ahead is None else ahead
        self._ahead = Ahead(model, logits, self._cache, end_of_text_id) if goes_ahead else None
        self._waiting: deque[tuple[int, Request]] = deque()
        self._writing: list[UnfinishedText] = []
        self._submitted = 0

    def submit(self, request: Request) -> int:
        """Let a text wait for its turn; returns the number it is known by.

        Raises:
            UserError: if the prompt is longer than the model reads.
        """
        if len(request.prompt) > self._model.config.n_positions:
            raise UserError(
                "the prompt has {n_tokens} tokens, and the model reads at most {n_positions}",
                hint="shorten the prompt",
                n_tokens=len(request.prompt),
                n_positions=self._model.config.n_positions,
            )
        self._waiting.append((self._submitted, request))
        self._submitted += 1
        return self._submitted - 1

    def cancel(self, number: int) -> None:
        """Forget a text; its place is free for another one."""
        self._waiting = deque(entry for entry in self._waiting if entry[0] != number)
        for place, text in enumerate(self._writing):
            if text.number == number:
                self._give_up(place)
                return

    def close(self) -> None:
        """Wait for what is still computed, before the engine is dropped with the memory it computes in."""
        if self._ahead is not None:
            self._ahead.close()

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to write."""
        return not self._waiting and not self._writing

    def step(self) -> list[tuple[int, Continuation]]:
        """One more token of every text, or the first one of those that begin; the texts that end with it, by number."""
        with inference_mode(self._model):
            self._read_full_ones_again()
            ended = self._step_on_host() if self._host_is_needed() else self._step_ahead()
        finished = []
        for place in sorted(ended, reverse=True):  # the last first: it may take a place
            finished.append((self._writing[place].number, self._writing[place].continuation()))
            self._give_up(place)
        return finished[::-1]

    def run(self) -> Iterator[tuple[int, Continuation]]:
        """Write everything that was submitted; texts come as they end."""
        while not self.is_idle:
            yield from self.step()

    def _read_full_ones_again(self) -> None:
        """Where a text fills the positions, its last half takes their place."""
        full = [place for place in range(len(self._writing)) if self._cache.lengths[place] == self._n_positions]
        if full:
            self._stop_going_ahead()
            kept = max(self._n_positions // 2, 2)
            self._decoder.read({place: self._writing[place].history.tokens[-kept:-1] for place in full})

    def _host_is_needed(self) -> bool:
        """To begin texts, or where somebody looks at all logits."""
        begins = bool(self._waiting) and len(self._writing) < self._texts_at_once
        return begins or self._others_need_the_host()

    def _others_need_the_host(self) -> bool:
        """Whether texts that were begun cannot go on ahead."""
        return self._ahead is None or any(text.needs_all_logits for text in self._writing)

    def _step_on_host(self) -> list[int]:
        """Choose tokens by logits that are brought here: of texts that begin and, unless they go on ahead, of others.

        Returns:
            The places where texts end.
        """
        self._stop_going_ahead()
        logits_of_places: dict[int, Floats] = {}
        if self._writing and self._others_need_the_host():
            logits_NV = self._decoder.step([text.history.tokens[-1] for text in self._writing]).numpy()
            logits_of_places |= enumerate(logits_NV)
        new: dict[int, list[int]] = {}
        while self._waiting and len(self._writing) < self._texts_at_once:
            number, request = self._waiting.popleft()
            new[len(self._writing)] = request.prompt
            self._writing.append(UnfinishedText(number, request, self._end_of_text_id))
        if new:
            logits_of_places |= zip(new, self._decoder.read(new).numpy(), strict=True)
        return [place for place, logits_V in logits_of_places.items() if self._writing[place].choose(logits_V)]

    def _step_ahead(self) -> list[int]:
        """Take the oldest results, with further steps under way; the places where texts end."""
        assert self._ahead is not None
        if not self._ahead.is_going:
            self._ahead.begin(
                [Going(text.history.tokens, text.request.rules, text.tokens_before_end) for text in self._writing]
            )
        while self._ahead.steps_under_way < STEPS_AHEAD and self._can_launch(self._ahead.steps_under_way):
            self._ahead.launch([text.chance(self._ahead.steps_under_way) for text in self._writing])
        return [
            place
            for place, (token, logprob) in enumerate(self._ahead.take())
            if self._writing[place].take(token, logprob)
        ]

    def _can_launch(self, under_way: int) -> bool:
        """Whether there is a position for one more token of each text, and somebody who wants it."""
        longest = max(self._cache.lengths[: len(self._writing)]) + under_way
        return longest < self._n_positions and any(text.tokens_left > under_way for text in self._writing)

    def _stop_going_ahead(self) -> None:
        if self._ahead is not None:
            self._ahead.stop()

    def _give_up(self, place: int) -> None:
        """The last text takes the place, so that texts stand side by side."""
        self._stop_going_ahead()
        last = self._writing.pop()
        if place < len(self._writing):
            self._writing[place] = last
            self._cache.move(len(self._writing), place)


def continue_texts(
    model: GPT2,
    prompts: list[list[int]],
    *,
    seeds: list[int],
    rules: SamplingRules,
    max_new_tokens: int,
    end_of_text_id: int,
) -> list[Continuation]:
    """Continue each prompt, all of them side by side.

    Args:
        model: on its device, in evaluation mode or not: dropout is off here.
        prompts: token ids of each, none empty (begin with end-of-text to start a text from nothing).
        seeds: one for each prompt.
        rules: how to choose tokens.
        max_new_tokens: longest continuation.
        end_of_text_id: ends a text.

    Raises:
        UserError: if a prompt is longer than the model reads.
    """
    engine = Engine(
        model,
        end_of_text_id=end_of_text_id,
        texts_at_once=len(prompts),
        positions=max(map(len, prompts)) + max_new_tokens,
    )
    for prompt, seed in zip(prompts, seeds, strict=True):
        engine.submit(Request(prompt, seed, rules, max_new_tokens))
    with closing(engine):
        return [continuation for _, continuation in sorted(engine.run(), key=lambda finished: finished[0])]
