"""Asynchronous decoding: tokens are sampled on the device and read again at once, and reach the host later.

Otherwise the host would wait for every token, and the GPU for the host's answer. Here the host launches a step before
it has seen the results of the last one; what it needs for that, each sequence's random number, does not depend on them.
On CUDA a step is one graph, captured for a number of sequences and a KV bucket, and replayed.

Shapes: B slots of a step, running sequences and idle ones; V vocabulary.
"""

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from tunesmith.generation.kv_cache import DecodeAttention, KVCache
from tunesmith.generation.sampling import SamplingParams
from tunesmith.generation.sampling_batched import (
    BatchedSamplingParams,
    apply_repetition_penalty,
    sample_tokens,
    token_logprobs,
)
from tunesmith.model.gpt2 import GPT2
from tunesmith.utils.device import CAPTURE_LOCK

WARMUP_CALLS = 2
"""Kernels are chosen and workspaces made before a capture."""
KV_BUCKET_MULTIPLE = 256
"""Steps are made for a multiple of this many positions."""


class CUDAGraphRecorder:
    """Captures CUDA graphs that share their memory and are never replayed at once.

    Warm-ups and captures have a stream of their own, and no other recorder's: cuBLAS keeps a workspace for each stream,
    which torch frees when a graph dies that was captured there (pytorch #193402). So all graphs of a recorder have to
    be dropped together.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def capture_cuda_graph(self, work: Callable[[], None], state: Sequence[Tensor]) -> Callable[[], None]:
        """Capture work as a graph and return its replay; the work has not been done when this returns.

        Args:
            work: reads and writes tensors whose addresses never change, all on the device.
            state: what it reads and writes; restored after the warm-up.
        """
        with CAPTURE_LOCK, torch.cuda.device(self._device):  # one capture at a time in a process
            before = [tensor.clone() for tensor in state]
            self._stream.wait_stream(torch.cuda.current_stream(self._device))
            with torch.cuda.stream(self._stream):
                for _ in range(WARMUP_CALLS):
                    work()
                    for tensor, saved in zip(state, before, strict=True):
                        tensor.copy_(saved)
            torch.cuda.current_stream(self._device).wait_stream(self._stream)
            graph = torch.cuda.CUDAGraph()
            capture = torch.cuda.graph(
                graph,
                pool=self._pool,
                stream=self._stream,
                capture_error_mode="thread_local",  # other threads may use the GPU meanwhile
            )
            with capture:
                work()
        return graph.replay


@dataclass(frozen=True)
class ActiveSequence:
    """A sequence that is decoded.

    Attributes:
        tokens: prompt and output; the last one is not read yet.
        tokens_before_end: how many must come before end-of-text may.
    """

    tokens: list[int]
    params: SamplingParams
    tokens_before_end: int


@dataclass(frozen=True)
class _Results:
    """Results of a step, on their way to the host: [B] each."""

    tokens: Tensor
    logprobs: Tensor
    arrived: "torch.cuda.Event | None"


class AsyncDecoder:
    """Decoding steps of the sequences in the first slots of a cache, launched ahead of their results.

    Args:
        model: on its device.
        logits: hidden states [N, C] to logits [N, V] in fp32.
        cache: its `lengths` are those of the host, and grow when results are collected.
        end_of_text_id: cannot come before a sequence's minimum length.
    """

    def __init__(self, model: GPT2, logits: Callable[[Tensor], Tensor], cache: KVCache, end_of_text_id: int) -> None:
        self._model = model
        self._logits = logits
        self._cache = cache
        self._end_of_text_id = end_of_text_id
        self._device = model.head_VC.device
        self._recorder = CUDAGraphRecorder(self._device) if self._device.type == "cuda" else None
        self._newest: torch.cuda.Event | None = None
        self._steps: dict[tuple[int, int, bool, bool], _DecodeStep] = {}
        self._step: _DecodeStep | None = None
        self._sequences: Sequence[ActiveSequence] = ()
        self._in_flight: deque[_Results] = deque()

    @property
    def is_active(self) -> bool:
        """Whether sequences have begun."""
        return bool(self._sequences)

    @property
    def steps_in_flight(self) -> int:
        """Steps launched and not collected."""
        return len(self._in_flight)

    def begin(self, sequences: Sequence[ActiveSequence]) -> None:
        """Decode the sequences in the first slots of the cache from what the host knows of them."""
        self._sequences = sequences
        self._step = None

    def launch(self, uniforms: Sequence[float]) -> None:
        """Launch one more token of every sequence, each with its random number; there must be a position left."""
        longest = max(self._cache.lengths[: len(self._sequences)]) + len(self._in_flight) + 1
        kv_bucket = min(-(-longest // KV_BUCKET_MULTIPLE) * KV_BUCKET_MULTIPLE, self._cache.positions)
        before = self._step
        with torch.cuda.device(self._device) if self._device.type == "cuda" else nullcontext():
            if before is None or before.kv_bucket != kv_bucket:
                self._step = self._step_for(kv_bucket)
                if before is None:
                    self._step.load(self._sequences, self._cache.lengths)
                else:
                    self._step.continue_from(before)
            assert self._step is not None
            results = self._step.run(uniforms, self._recorder)
            self._in_flight.append(results)
            self._newest = results.arrived

    def collect(self) -> list[tuple[int, float]]:
        """Return the oldest results: of each sequence its token, and its log-probability in nats under the model."""
        results = self._in_flight.popleft()
        if results.arrived is not None:
            results.arrived.synchronize()
        for slot in range(len(self._sequences)):
            self._cache.lengths[slot] += 1
        pairs = zip(results.tokens.tolist(), results.logprobs.tolist(), strict=True)
        return list(pairs)[: len(self._sequences)]

    def discard(self) -> None:
        """Drop what is in flight: the host's lengths count again, and the cache after them is never looked at."""
        self._in_flight.clear()
        self._sequences = ()

    def close(self) -> None:
        """Wait for the newest step: graphs and their memory must not go while one of them runs."""
        self.discard()
        if self._newest is not None:
            self._newest.synchronize()
            self._newest = None

    def _step_for(self, kv_bucket: int) -> "_DecodeStep":
        params = BatchedSamplingParams.of([it.params for it in self._sequences], self._model.config.vocab_size)
        n_slots = min(1 << (len(self._sequences) - 1).bit_length(), len(self._cache.lengths))
        key = (n_slots, kv_bucket, params.sorts, params.penalizes)
        if key not in self._steps:
            self._steps[key] = _DecodeStep(self._model, self._logits, self._cache, self._end_of_text_id, *key)
        return self._steps[key]


class _DecodeStep:
    """One token of each of B sequences: all that it reads and writes keeps its address, so that it can be captured."""

    def __init__(
        self,
        model: GPT2,
        logits: Callable[[Tensor], Tensor],
        cache: KVCache,
        end_of_text_id: int,
        n_slots: int,
        kv_bucket: int,
        sorts: bool,  # noqa: FBT001
        penalizes: bool,  # noqa: FBT001
    ) -> None:
        device, vocab_size = model.head_VC.device, model.config.vocab_size
        self.kv_bucket = kv_bucket
        self._model, self._logits, self._cache = model, logits, cache
        self._end_of_text_id = end_of_text_id
        self._idle = ActiveSequence([0], SamplingParams(0.0, 0, 1.0), 0)
        idle = BatchedSamplingParams.of([self._idle.params] * n_slots, vocab_size)
        self.params = idle.to(device, sorts=sorts, penalizes=penalizes)
        self._tokens_B = torch.zeros(n_slots, dtype=torch.int64, device=device)
        self._lengths_B = torch.zeros(n_slots, dtype=torch.int64, device=device)
        self._before_end_B = torch.zeros(n_slots, dtype=torch.int64, device=device)
        self._uniform_B = torch.zeros(n_slots, dtype=torch.float64, device=device)
        self._logprobs_B = torch.zeros(n_slots, dtype=torch.float32, device=device)
        self._seen_BV = torch.zeros((n_slots if penalizes else 0, vocab_size), dtype=torch.bool, device=device)
        self._work: Callable[[], None] | None = None

    @property
    def state(self) -> list[Tensor]:
        """What one step leaves for the next."""
        return [self._tokens_B, self._lengths_B, self._before_end_B, self._seen_BV]

    def load(self, sequences: Sequence[ActiveSequence], lengths: Sequence[int]) -> None:
        """Begin from what the host knows; slots without a sequence are idle, and their results are not used."""
        n_idle = len(self._tokens_B) - len(sequences)
        padded = [*sequences, *[self._idle] * n_idle]
        self._fill(self._tokens_B, [it.tokens[-1] for it in padded])
        self._fill(self._lengths_B, [*lengths[: len(sequences)], *[0] * n_idle])
        self._fill(self._before_end_B, [it.tokens_before_end for it in padded])
        self.params.copy_(BatchedSamplingParams.of([it.params for it in padded], self._model.config.vocab_size))
        if len(self._seen_BV):
            seen_BV = torch.zeros(self._seen_BV.shape, dtype=torch.bool, pin_memory=self._seen_BV.is_cuda)
            for row, sequence in enumerate(sequences):
                seen_BV[row, torch.tensor(sequence.tokens)] = True
            self._seen_BV.copy_(seen_BV, non_blocking=True)

    def continue_from(self, other: "_DecodeStep") -> None:
        """Take over where a step of another KV bucket has got to; nothing waits."""
        for mine, its in zip(self.state, other.state, strict=True):
            mine.copy_(its)
        self.params.copy_(other.params)

    def run(self, uniforms: Sequence[float], recorder: CUDAGraphRecorder | None) -> _Results:
        """Launch the step, on a GPU as a graph; its results are on their way then."""
        self._fill(self._uniform_B, [*uniforms, *[0.0] * (len(self._uniform_B) - len(uniforms))])
        if self._work is None:
            work = self._compute
            self._work = work if recorder is None else recorder.capture_cuda_graph(work, self.state)
        self._work()
        if recorder is None:
            return _Results(self._tokens_B.clone(), self._logprobs_B.clone(), None)
        tokens_B, logprobs_B = (
            torch.empty(t_B.shape, dtype=t_B.dtype, pin_memory=True).copy_(t_B, non_blocking=True)
            for t_B in (self._tokens_B, self._logprobs_B)
        )
        arrived = torch.cuda.Event()
        arrived.record(torch.cuda.current_stream(self._tokens_B.device))
        return _Results(tokens_B, logprobs_B, arrived)

    def _compute(self) -> None:
        attend = DecodeAttention(self._cache, self._lengths_B, self.kv_bucket)
        logits_BV = self._logits(self._model(self._tokens_B, self._lengths_B, attend.of_layer))
        if self.params.penalizes:
            processed_BV = apply_repetition_penalty(logits_BV, self.params, self._seen_BV)
        else:
            processed_BV = logits_BV.clone()
        if self._end_of_text_id < processed_BV.shape[1]:
            processed_BV[:, self._end_of_text_id].masked_fill_(self._before_end_B > 0, -torch.inf)
        sampled_B = sample_tokens(processed_BV, self.params, self._uniform_B)
        self._logprobs_B.copy_(token_logprobs(logits_BV, sampled_B))
        self._tokens_B.copy_(sampled_B)
        self._lengths_B.add_(1)
        self._before_end_B.sub_(1)
        if self.params.penalizes:
            self._seen_BV.scatter_(1, sampled_B[:, None], value=True)

    def _fill(self, static_B: Tensor, values: Sequence[float]) -> None:
        """Bring numbers to where a captured step looks for them."""
        numbers = torch.tensor(values, dtype=static_B.dtype)
        static_B.copy_(numbers.pin_memory() if static_B.is_cuda else numbers, non_blocking=True)
