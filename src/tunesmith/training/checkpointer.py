"""Checkpointer: write checkpoints and the best model in the background while training continues.

Training waits for a copy in memory only: copying 1.5 GB takes half a second, writing and syncing it many. One copy
serves all that is written of a step. When the disk is full or fails, the last good checkpoint stays, training
continues, and the next write tries again. A checkpoint is written only when the best model that its state names is in
the run directory.
"""

import copy
import errno
import os
import queue
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
import torch
from safetensors import SafetensorError
from torch import Tensor

from tunesmith.config import GenerateConfig, TrainConfig
from tunesmith.data.corpus import Corpus
from tunesmith.data.tokenizer import TextTokenizer
from tunesmith.distributed.dtensor import full_tensor, local_tensor
from tunesmith.distributed.strategy import Strategy
from tunesmith.distributed.world import World
from tunesmith.errors import UserError
from tunesmith.evaluation.perplexity import METHOD
from tunesmith.i18n import LazyString, say
from tunesmith.model.gpt2 import GPT2
from tunesmith.model.hf_checkpoint import iter_hf_tensors, write_weights
from tunesmith.model.lora import adapter_state, write_adapter
from tunesmith.run_dir import RunDir
from tunesmith.training.checkpoint import (
    ADAPTER,
    CheckpointWriter,
    ModelSnapshot,
    NonFiniteWeightsError,
    Snapshot,
    drop_old_checkpoints,
)
from tunesmith.training.events import CheckpointFailed, CheckpointSaved
from tunesmith.training.from_scratch import display_name
from tunesmith.training.model_card import model_card
from tunesmith.training.optimizer import WholeWeights, optimizer_tensors, trainable
from tunesmith.training.plan import HOST_COPY_SHARE, TrainPlan
from tunesmith.training.rng import RNGState
from tunesmith.training.state import TrainState
from tunesmith.utils.device import pinned_empty, use_device
from tunesmith.utils.files import describe_os_error, write_json, write_text

SMALL_FILES_BYTES = 64 << 10
"""Of a checkpoint: configuration, counters, checksums; its tokenizer is counted as overhead."""
OVERHEAD = 1.02

Tensors = dict[str, Tensor]
Write = Callable[[], object]
Outcome = CheckpointSaved | CheckpointFailed


# --- disk


def check_disk_space(folder: Path, *, weights_bytes: int, optimizer_bytes: int) -> None:
    """Check that a new run will find disk space.

    At the fullest instant there are a checkpoint and the next one being written, and the best model and its successor.

    Args:
        folder: where the run will write; it need not exist.
        weights_bytes: of a model folder.
        optimizer_bytes: that a checkpoint adds to it.

    Raises:
        UserError: if there is not enough.
    """
    needed = 2 * (weights_bytes + optimizer_bytes) + 2 * weights_bytes
    place = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.is_dir())
    free = shutil.disk_usage(place).free
    if free < needed:
        raise UserError(
            "the run needs {needed_gib:.2f} GiB on the disk for two checkpoints and two models, and "
            "{free_gib:.2f} GiB are free in {place}",
            hint="free disk space, use an --out on another disk, or train only adapters: --lora-r 8",
            needed_gib=needed / 2**30,
            free_gib=free / 2**30,
            place=place,
        )


def has_disk_space(folder: Path, n_bytes: int) -> bool:
    """Whether a checkpoint with tensors of that size fits."""
    return shutil.disk_usage(folder).free >= n_bytes * OVERHEAD + SMALL_FILES_BYTES


def _disk_full_error(path: Path | None = None) -> OSError:
    """Return the system's error for a full disk, before it has to raise it."""
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), *([] if path is None else [str(path)]))


# --- copies in memory


class HostBuffers:
    """Host memory for copies of a GPU's tensors: pinned where possible, so that copying takes a third of the time.

    It is kept from one checkpoint to the next, because pinning takes longer than copying.
    """

    def __init__(self) -> None:
        self._buffers: Tensors = {}

    @property
    def nbytes(self) -> int:
        """Allocated so far."""
        return sum(buffer.nbytes for buffer in self._buffers.values())

    def copies(self, tensors: Iterable[tuple[str, Tensor]], live: set[int]) -> Tensors:
        """Copy tensors into memory that does not change until copies of the same names are made again.

        Args:
            tensors: on any device.
            live: CPU storages that the next step writes to; tensors elsewhere on the CPU are not copied.
        """
        copies: Tensors = {}
        devices: set[torch.device] = set()
        for name, tensor in tensors:
            if not tensor.is_cuda:
                is_live = tensor.untyped_storage().data_ptr() in live
                copies[name] = tensor.clone(memory_format=torch.contiguous_format) if is_live else tensor
                continue
            buffer = self._buffers.get(name)
            if buffer is None or (buffer.shape, buffer.dtype) != (tensor.shape, tensor.dtype):
                buffer = self._buffers[name] = pinned_empty(tensor.shape, tensor.dtype)
            copies[name] = buffer.copy_(tensor, non_blocking=True)
            devices.add(tensor.device)
        for device in devices:
            torch.cuda.current_stream(device).synchronize()
        return copies


class LazyTensors(Mapping[str, Tensor]):
    """Tensors on the CPU, each made on access, for hosts without memory for all of them.

    Args:
        tensors: makes them, one after the other, where they are.
        dtype: to convert to; their own by default.
    """

    def __init__(
        self, tensors: Callable[[], Iterable[tuple[str, Tensor]]], *, dtype: torch.dtype | None = None
    ) -> None:
        self._tensors, self._dtype = tensors, dtype

    def items(self) -> Any:  # noqa: ANN401  in one pass, instead of one for each name
        """Yield all of them, one after the other."""
        return ((name, self._on_cpu(tensor)) for name, tensor in self._tensors())

    def values(self) -> Any:  # noqa: ANN401
        """Likewise."""
        return (tensor for _, tensor in self.items())

    def __getitem__(self, name: str) -> Tensor:
        for key, tensor in self._tensors():
            if key == name:
                return self._on_cpu(tensor)
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self._tensors())

    def __len__(self) -> int:
        return sum(1 for _ in self._tensors())

    def _on_cpu(self, tensor: Tensor) -> Tensor:
        return tensor.detach().to("cpu", self._dtype or tensor.dtype)


def snapshot_model(
    model: GPT2,
    optimizer: torch.optim.Optimizer,
    weights_id: tuple[int, int],
    buffers: HostBuffers,
    *,
    is_live: bool = False,
) -> ModelSnapshot:
    """Copy the weights, in fp32 where the optimizer keeps their other half.

    Args:
        model: in training.
        optimizer: of its parameters.
        weights_id: `TrainState.weights_id`.
        buffers: that a GPU's weights are copied to.
        is_live: copy nothing, and read each weight on access.
    """
    live, fp32_weights = _live_storages(model, optimizer), WholeWeights(model, optimizer)
    adapter = buffers.copies(adapter_state(model).items(), live)
    if is_live:
        lazy = LazyTensors(lambda: iter_hf_tensors(model, fp32_weights), dtype=torch.float32)
        return ModelSnapshot(weights_id, lazy, adapter, is_live=True)
    return ModelSnapshot(weights_id, buffers.copies(iter_hf_tensors(model, fp32_weights), live), adapter)


def state_bytes(model: GPT2, optimizer: torch.optim.Optimizer) -> tuple[int, int]:
    """Return the size of a model folder of this run on disk, and what the optimizer's state adds to it."""
    weights = sum(parameter.numel() * torch.float32.itemsize for parameter in model.parameters())
    return weights, sum(value.nbytes for value in _state_tensors(optimizer))


def fits_memory(n_bytes: int) -> bool:
    """Whether the host has memory for a copy of that size."""
    return n_bytes < HOST_COPY_SHARE * psutil.virtual_memory().available


def _state_tensors(optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    return (value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor))


def _live_storages(model: GPT2, optimizer: torch.optim.Optimizer) -> set[int]:
    """Return the addresses of memory that the next step writes to."""
    tensors = (*model.parameters(), *_state_tensors(optimizer))
    return {local_tensor(tensor).untyped_storage().data_ptr() for tensor in tensors}


# --- the model folder


@dataclass(frozen=True)
class BestModelWriter:
    """Write the best model so far into the run directory, as an ordinary Hugging Face model folder."""

    run: RunDir
    config: TrainConfig
    plan: TrainPlan
    corpus: Corpus
    tokenizer: TextTokenizer
    hf_config: dict[str, Any]
    version: str

    def publish(self, model: ModelSnapshot, state: TrainState) -> None:
        """Write model, tokenizer, generation settings and model card; each file is replaced atomically."""
        folder = self.run.path
        self.tokenizer.save(folder)
        write_json(folder / "generation_config.json", generation_config(self.tokenizer.end_of_text_id))
        card = model_card(
            name=folder.resolve().name,
            base=display_name(self.config),
            from_scratch=self.config.from_scratch,
            plan=self.plan,
            state=state,
            data=self.corpus.manifest,
            version=self.version,
            method=METHOD.source,
        )
        write_text(folder / "README.md", card)
        if self.plan.lora is not None:
            write_adapter(model.adapter, folder / ADAPTER, self.plan.lora, base=self.config.model)
        write_weights(model.weights, folder, hf_config={**self.hf_config, **_ids(self.tokenizer.end_of_text_id)})


def generation_config(end_of_text_id: int) -> dict[str, Any]:
    """Return the defaults of `transformers` for the model: those of `tunesmith generate`."""
    return {
        **_ids(end_of_text_id),
        "pad_token_id": end_of_text_id,
        "do_sample": True,
        "temperature": GenerateConfig.temperature[0],
        "top_k": GenerateConfig.top_k,
        "top_p": GenerateConfig.top_p,
        "max_new_tokens": GenerateConfig.max_new_tokens,
    }


def _ids(end_of_text_id: int) -> dict[str, int]:
    return {"bos_token_id": end_of_text_id, "eos_token_id": end_of_text_id}


# --- writing in the background


@dataclass(frozen=True)
class _Job:
    step: int
    folder: Path | None
    write: Write


class AsyncWriter:
    """A thread that writes one thing after the other, and that no failed write ends.

    Used as a context manager: leaving it waits for what is being written, unless by a second Ctrl-C.

    Attributes:
        failure: why the newest write failed; None if it did not. Valid only after `wait`.
    """

    def __init__(self) -> None:
        self.failure: LazyString | None = None
        self._jobs: queue.Queue[_Job | None] = queue.Queue()
        self._outcomes: queue.SimpleQueue[Outcome | BaseException] = queue.SimpleQueue()
        self._unpublished: _Job | None = None
        self._thread = threading.Thread(target=self._work, name="checkpoint writer", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._jobs.put(None)
        if kind is None or not issubclass(kind, KeyboardInterrupt):
            self._thread.join()

    def publish(self, step: int, write: Write) -> None:
        """Write a new best model, instead of any that could not be written yet."""
        self._jobs.put(_Job(step, None, write))

    def save(self, step: int, folder: Path, write: Write) -> None:
        """Write a checkpoint."""
        self._jobs.put(_Job(step, folder, write))

    def wait(self) -> None:
        """Wait until everything is written or has failed."""
        self._jobs.join()

    def outcomes(self) -> list[Outcome]:
        """Return what was written and what failed since the last call.

        Raises:
            BaseException: any error of the thread that is not the disk's.
        """
        outcomes: list[Outcome] = []
        while not self._outcomes.empty():
            outcome = self._outcomes.get()
            if isinstance(outcome, BaseException):
                raise outcome
            outcomes.append(outcome)
        return outcomes

    def _work(self) -> None:
        while job := self._jobs.get():
            try:
                self._run(job)
            except (OSError, SafetensorError, NonFiniteWeightsError) as error:
                self.failure = _reason(error)
                self._outcomes.put(CheckpointFailed(job.step, self.failure))
            except BaseException as error:  # noqa: BLE001  raised in the main thread
                self._outcomes.put(error)
            finally:
                self._jobs.task_done()

    def _run(self, job: _Job) -> None:
        if job.folder is None:
            self._unpublished = job
        if self._unpublished:
            self._unpublished.write()
            self._unpublished = None
        if job.folder is not None:
            job.write()
            self._outcomes.put(CheckpointSaved(job.step, job.folder))
        self.failure = None


def _reason(error: OSError | SafetensorError | NonFiniteWeightsError) -> LazyString:
    """Return the system's own words; safetensors wraps them in a sentence."""
    reason = describe_os_error(error)
    if isinstance(error, OSError) and error.filename:
        return LazyString("{path}: {reason}", {"path": str(error.filename), "reason": reason})
    return reason


@dataclass
class Checkpointer:
    """Save checkpoints and publish the best model; other ranks help the main process where the model is sharded.

    Used as a context manager: leaving it waits for what is being written.

    Attributes:
        keep_bytes: for checkpoints on disk; None keeps what a resume can need.
    """

    run: RunDir
    best_model: BestModelWriter
    checkpoints: CheckpointWriter
    keep_bytes: float | None
    model: GPT2
    optimizer: torch.optim.Optimizer
    rng: RNGState
    world: World
    strategy: Strategy

    def __post_init__(self) -> None:
        self._writer = AsyncWriter()
        self._buffers = HostBuffers()
        self._copied: ModelSnapshot | None = None
        self.outcomes = self._writer.outcomes
        self.wait = self._writer.wait

    def __enter__(self) -> Self:
        self._writer.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._writer.__exit__(kind, error, traceback)

    def publish(self, state: TrainState) -> None:
        """Write the current model into the run directory, as the best one."""
        copied, now = self.copy_of_model(state), replace(state)
        if self.world.is_main_process:
            self._writer.publish(state.step, self._guarded(copied, lambda: self.best_model.publish(copied, now)))
            if copied.is_live:
                self._writer.wait()

    def save(self, state: TrainState, scaler: torch.amp.GradScaler) -> None:
        """Write a checkpoint; training waits for the copy only, unless memory is too short for one."""
        folder = self.run.checkpoint(state.step)
        copied = self.copy_of_model(state)
        if not self.world.is_main_process:
            if self.strategy.is_sharded:
                self._participate_in_gather(optimizer_states=True)
            return
        optimizer_tensors_of = (
            LazyTensors(lambda: optimizer_tensors(self.model, self.optimizer))
            if copied.is_live
            else self._buffers.copies(
                optimizer_tensors(self.model, self.optimizer), _live_storages(self.model, self.optimizer)
            )
        )
        snapshot = Snapshot(
            copied,
            optimizer_tensors_of,
            dict(self.rng.states),
            copy.deepcopy(scaler.state_dict()),
            copy.deepcopy(state),
        )
        n_bytes = sum(state_bytes(self.model, self.optimizer))

        def write() -> None:
            if not has_disk_space(self.run.path, n_bytes):
                drop_old_checkpoints(self.run, keep_bytes=0)  # all but the newest
                if not has_disk_space(self.run.path, n_bytes):
                    raise _disk_full_error(folder)
            self.checkpoints.write(snapshot, folder)
            drop_old_checkpoints(self.run, self.keep_bytes)

        self._writer.save(state.step, folder, self._guarded(copied, write))
        if copied.is_live or (self.strategy.is_sharded and not fits_memory(n_bytes)):
            self._writer.wait()

    def _guarded(self, copied: ModelSnapshot, write: Write) -> Write:
        """Let the writing thread read a live snapshot from the GPU, as long as it is still of the same step."""

        def write_this_step() -> None:
            if copied.is_live:
                if self._copied is not copied:  # the disk was full when this could be written
                    raise _disk_full_error()
                use_device(self.model.head_VC.device)
            write()

        return write_this_step

    def copy_of_model(self, state: TrainState) -> ModelSnapshot:
        """Return the one copy for all that is written of a step; writes of earlier steps must end first."""
        weights_id = state.weights_id  # a step that is reached again after a rollback has other weights
        if self._copied is None or self._copied.weights_id != weights_id:
            self._copied = None
            self._writer.wait()
            if self.world.is_main_process:
                n_bytes = sum(state_bytes(self.model, self.optimizer)) - self._buffers.nbytes
                is_live = not self.strategy.is_sharded and not fits_memory(n_bytes)
                self._copied = snapshot_model(self.model, self.optimizer, weights_id, self._buffers, is_live=is_live)
            else:
                if self.strategy.is_sharded:
                    self._participate_in_gather(optimizer_states=False)
                self._copied = ModelSnapshot(weights_id, {}, {})
        return self._copied

    def _participate_in_gather(self, *, optimizer_states: bool) -> None:
        """Take part in the collectives of the main process while it copies a sharded model, and keep nothing."""
        for _, parameter in trainable(self.model):
            tensors = self.optimizer.state[parameter].values() if optimizer_states else (parameter,)
            for tensor in tensors:
                full_tensor(tensor.detach())

    def finish(self) -> list[Outcome]:
        """Wait until everything is written or has failed."""
        self._writer.wait()
        self._copied = None
        return self._writer.outcomes()

    def check_saved(self, step: int) -> None:
        """Check, after `finish`, that the newest checkpoint and all logs are on disk.

        Raises:
            UserError: if they could not be written.
        """
        if reason := self._writer.failure:
            kept = self.run.checkpoints()
            raise UserError(
                "step {step:,} could not be saved: {reason}",
                hint="free disk space, then continue from {start}: tunesmith train --resume --out {path}",
                step=step,
                reason=reason,
                start=kept[-1].name if kept else say("the beginning"),
                path=self.run.path,
            )
        self.run.flush()
