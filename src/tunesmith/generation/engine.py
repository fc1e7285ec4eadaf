"""Continuous batching: requests in, token sequences out, without padding, each as if it were alone.

A sequence that ends gives its slot to the next one at once. Every sequence draws its random numbers from its own seed,
so its tokens depend on its seed and prompt and not on the rest of the batch. A sequence ends at end-of-text, where its
stop callback says so, or at its length limit. Where the model's positions end, the last half of them is read again and
the sequence continues.

Shapes: N sequences, V vocabulary, C channels.
"""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import accumulate

import torch
from torch import Tensor

from tunesmith.errors import UserError
from tunesmith.generation.async_decode import ActiveSequence, AsyncDecoder
from tunesmith.generation.cpu_inference import can_unroll, unrolled
from tunesmith.generation.kv_cache import DecodeAttention, KVCache, PrefillAttention, int64_rows_on
from tunesmith.generation.sampling import Floats, SamplingParams
from tunesmith.generation.sequence import GenerationOutput, GenerationRequest, Sequence
from tunesmith.model.attention import PackedLayout, attention_for
from tunesmith.model.compile import inference_mode
from tunesmith.model.gpt2 import GPT2

PREFILL_TOKENS = 4096
"""Prompts are read at most this many tokens at a time."""
STEPS_AHEAD = 2
"""Decoding steps launched before the oldest one's results are looked at."""


class Decoder:
    """The model's forward passes over a KV cache: prompts whole, then one token of every sequence at a time.

    Args:
        model: on its device.
        logits: hidden states [N, C] to logits [N, V] in fp32; the model's own, or those of a packed head.
        cache: sequences are in its first slots.
    """

    def __init__(self, model: GPT2, logits: Callable[[Tensor], Tensor], cache: KVCache) -> None:
        self._device = model.head_VC.device
        self._model = model
        self._forward = unrolled(model) if can_unroll(model) else model
        self._logits = logits
        self._cache = cache

    def prefill(self, prompts: dict[int, list[int]]) -> Tensor:
        """Read prompts into slots of the cache; returns the logits after each, [N, V] on the CPU.

        A GPU is waited for once, for the logits.
        """
        slots = list(prompts)
        chunks = []
        while slots:
            lengths = accumulate(len(prompts[slot]) for slot in slots)
            n_now = max(sum(length <= PREFILL_TOKENS for length in lengths), 1)
            chunks.append(self._prefill_chunk([prompts[slot] for slot in slots[:n_now]], slots[:n_now]))
            slots = slots[n_now:]
        return (chunks[0] if len(chunks) == 1 else torch.cat(chunks)).cpu()

    def _prefill_chunk(self, prompts: list[list[int]], slots: list[int]) -> Tensor:
        layout = PackedLayout.of((0, *accumulate(map(len, prompts))))
        scatters = self._device.type == "cuda" and len(prompts) > 1
        tokens_N, positions_N, slots_N, last_N = int64_rows_on(
            self._device,
            [
                [token for prompt in prompts for token in prompt],
                [position for prompt in prompts for position in range(len(prompt))],
                [slot for slot, prompt in zip(slots, prompts, strict=True) for _ in prompt] if scatters else [],
                [end - 1 for end in layout.offsets[1:]],
            ],
        )
        within_prompts = attention_for(layout, self._model)
        destinations = (slots_N, positions_N) if scatters else None
        attend = PrefillAttention(self._cache, slots, layout, within_prompts, destinations)
        return self._logits(self._forward(tokens_N, positions_N, attend.of_layer)[last_N])

    def decode(self, tokens: list[int]) -> Tensor:
        """Read one more token of each of the first sequences; returns the logits after them, [N, V] on the CPU."""
        tokens_N, lengths_N = int64_rows_on(self._device, [tokens, self._cache.lengths[: len(tokens)]])
        attend = DecodeAttention.of_first(self._cache, lengths_N)
        hidden_NC = self._forward(tokens_N, lengths_N, attend.of_layer)
        for slot in range(len(tokens)):
            self._cache.lengths[slot] += 1
        return self._logits(hidden_NC).cpu()


class Engine:
    """Generates sequences side by side; more of them wait in a queue.

    Args:
        model: on its device, in evaluation mode or not: dropout is off here.
        end_of_text_id: ends a sequence.
        batch_size: most sequences generated side by side.
        positions: longest sequence with its prompt; beyond the model's own, sequences slide.
        logits: hidden states to logits; the model's own unless its head is packed.
        async_decode: whether tokens are sampled on the model's device and steps launched ahead of their results; by
            default on a GPU.
    """

    def __init__(
        self,
        model: GPT2,
        *,
        end_of_text_id: int,
        batch_size: int,
        positions: int,
        logits: Callable[[Tensor], Tensor] | None = None,
        async_decode: bool | None = None,
    ) -> None:
        self._model = model
        self._end_of_text_id = end_of_text_id
        self._n_positions = min(positions, model.config.n_positions)
        self._batch_size = batch_size
        self._cache = KVCache(model, slots=batch_size, positions=self._n_positions)
        logits = logits or model.logits
        self._decoder = Decoder(model, logits, self._cache)
        is_async = model.head_VC.is_cuda if async_decode is None else async_decode
        self._async = AsyncDecoder(model, logits, self._cache, end_of_text_id) if is_async else None
        self._waiting: deque[tuple[int, GenerationRequest]] = deque()
        self._running: list[Sequence] = []
        self._submitted = 0

    def submit(self, request: GenerationRequest) -> int:
        """Queue a request; returns its id.

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

    def cancel(self, request_id: int) -> None:
        """Drop a sequence; its slot is free for another one."""
        self._waiting = deque(entry for entry in self._waiting if entry[0] != request_id)
        for slot, sequence in enumerate(self._running):
            if sequence.request_id == request_id:
                self._free_slot(slot)
                return

    def close(self) -> None:
        """Wait for what is still computed, before the engine is dropped with the memory it computes in."""
        if self._async is not None:
            self._async.close()

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to generate."""
        return not self._waiting and not self._running

    def step(self) -> list[tuple[int, GenerationOutput]]:
        """Generate one more token of every sequence, or the first one of new ones; returns those that end with it."""
        with inference_mode(self._model):
            self._slide_full_sequences()
            ended = self._step_on_host() if self._host_is_needed() else self._step_async()
        finished = []
        for slot in sorted(ended, reverse=True):  # the last first: it may take a slot
            finished.append((self._running[slot].request_id, self._running[slot].output()))
            self._free_slot(slot)
        return finished[::-1]

    def run(self) -> Iterator[tuple[int, GenerationOutput]]:
        """Generate everything that was submitted; sequences come as they end."""
        while not self.is_idle:
            yield from self.step()

    def _slide_full_sequences(self) -> None:
        """Where a sequence fills the positions, replace it in the cache by its last half."""
        full = [slot for slot in range(len(self._running)) if self._cache.lengths[slot] == self._n_positions]
        if full:
            self._discard_async()
            n_kept = max(self._n_positions // 2, 2)
            self._decoder.prefill({slot: self._running[slot].tokens[-n_kept:-1] for slot in full})

    def _host_is_needed(self) -> bool:
        """Whether sequences begin, or something looks at all logits."""
        begins = bool(self._waiting) and len(self._running) < self._batch_size
        return begins or self._running_need_host()

    def _running_need_host(self) -> bool:
        """Whether running sequences cannot be decoded asynchronously."""
        return self._async is None or any(sequence.needs_all_logits for sequence in self._running)

    def _step_on_host(self) -> list[int]:
        """Sample on the host: for sequences that begin and, unless they are decoded asynchronously, for running ones.

        Returns:
            The slots where sequences end.
        """
        self._discard_async()
        logits_of_slots: dict[int, Floats] = {}
        if self._running and self._running_need_host():
            logits_NV = self._decoder.decode([sequence.tokens[-1] for sequence in self._running]).numpy()
            logits_of_slots |= enumerate(logits_NV)
        new: dict[int, list[int]] = {}
        while self._waiting and len(self._running) < self._batch_size:
            request_id, request = self._waiting.popleft()
            new[len(self._running)] = request.prompt
            self._running.append(Sequence(request_id, request, self._end_of_text_id))
        if new:
            logits_of_slots |= zip(new, self._decoder.prefill(new).numpy(), strict=True)
        return [slot for slot, logits_V in logits_of_slots.items() if self._running[slot].sample(logits_V)]

    def _step_async(self) -> list[int]:
        """Collect the oldest results, with further steps in flight; returns the slots where sequences end."""
        assert self._async is not None
        if not self._async.is_active:
            self._async.begin(
                [ActiveSequence(it.tokens, it.request.params, it.tokens_before_end) for it in self._running]
            )
        while self._async.steps_in_flight < STEPS_AHEAD and self._can_launch(self._async.steps_in_flight):
            self._async.launch([it.draw_uniform(self._async.steps_in_flight) for it in self._running])
        return [
            slot
            for slot, (token, logprob) in enumerate(self._async.collect())
            if self._running[slot].append(token, logprob)
        ]

    def _can_launch(self, in_flight: int) -> bool:
        """Whether there is a position for one more token of each sequence, and one that needs it."""
        longest = max(self._cache.lengths[: len(self._running)]) + in_flight
        return longest < self._n_positions and any(it.tokens_left > in_flight for it in self._running)

    def _discard_async(self) -> None:
        if self._async is not None:
            self._async.discard()

    def _free_slot(self, slot: int) -> None:
        """Move the last sequence into the slot, so that used slots are contiguous."""
        self._discard_async()
        last = self._running.pop()
        if slot < len(self._running):
            self._running[slot] = last
            self._cache.move(len(self._running), slot)


def generate_tokens(
    model: GPT2,
    prompts: list[list[int]],
    *,
    seeds: list[int],
    params: SamplingParams,
    max_new_tokens: int,
    end_of_text_id: int,
) -> list[GenerationOutput]:
    """Continue each prompt, all of them side by side.

    Raises:
        UserError: if a prompt is longer than the model reads.
    """
    engine = Engine(
        model,
        end_of_text_id=end_of_text_id,
        batch_size=len(prompts),
        positions=max(map(len, prompts)) + max_new_tokens,
    )
    for prompt, seed in zip(prompts, seeds, strict=True):
        engine.submit(GenerationRequest(prompt, seed, params, max_new_tokens))
    with closing(engine):
        return [output for _, output in sorted(engine.run(), key=lambda finished: finished[0])]
