"""Checkpoint format: a model folder, plus what exact continuation needs.

    checkpoints/step-00000200/
        config.json  model.safetensors  tokenizer files     a model folder like any other
        optimizer.safetensors                               the optimizer's state, by parameter name
        random.safetensors                                  torch's RNG states
        adapter/                                            LoRA adapters, where those are trained
        state.json                                          counters, best so far, loss scale
        checksums.json                                      size and checksum of every file above

Written into a temporary folder, synced, then renamed: a folder named step-* is always complete. A disk, a copy or a
crash can still change or shorten a file without any error, and safetensors notices a missing end, not a flipped bit:
`checksums.json` has the size and the XXH3 (128 bits) of every file, which takes a tenth of the CPU time of SHA-256.
Reference: https://github.com/Cyan4973/xxHash. It detects accidents, not malice: nothing is unpickled anyway.
The data position is the step number itself (`tunesmith.data.dataloader`).
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import xxhash
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tunesmith.data.tokenizer import TextTokenizer
from tunesmith.errors import UserError
from tunesmith.i18n import say
from tunesmith.model.gpt2 import GPT2
from tunesmith.model.gpt2_config import LoRA
from tunesmith.model.hf_checkpoint import write_safetensors, write_weights
from tunesmith.model.lora import write_adapter
from tunesmith.run_dir import CHECKPOINT_STATE, CHECKPOINTS, STEP_FOLDER, RunDir
from tunesmith.training.optimizer import load_optimizer_state
from tunesmith.training.rng import RNGState
from tunesmith.training.state import TrainState
from tunesmith.utils.files import describe_os_error, new_folder, parse_json, remove_folder, write_atomically, write_json

ADAPTER = "adapter"
DAMAGED_SUFFIX = ".damaged"
OPTIMIZER = "optimizer.safetensors"
RANDOM = "random.safetensors"
CHECKSUMS = "checksums.json"
ALGORITHM = "xxh3_128"
ALGORITHMS: dict[str, Callable[[], Any]] = {ALGORITHM: xxhash.xxh3_128, "sha256": hashlib.sha256}
CHUNK_BYTES = 1 << 20
DECIDES_CONTINUATION = (
    "rollbacks",
    "excluded_windows",
    "precision",
    "micro_batch_splits",
    "activation_checkpointing",
    "best_step",
)
"""Fields of the state that decide how a run continues from a checkpoint; times and energy do not."""
KEPT_RESUMABLE = 2
"""The last checkpoint, and the one before it, in case the last one gets damaged."""


class NonFiniteWeightsError(Exception):
    """The weights contain NaN or Inf: a checkpoint of them would only replace a good one."""


@dataclass(frozen=True)
class ModelSnapshot:
    """The model at one step.

    Attributes:
        weights_id: `TrainState.weights_id`.
        weights: under Hugging Face's names, adapters merged.
        adapter: under `peft`'s names; empty where all weights are trained.
        is_live: whether weights are read from the model on access: it must not be updated meanwhile.
    """

    weights_id: tuple[int, int]
    weights: Mapping[str, Tensor]
    adapter: dict[str, Tensor]
    is_live: bool = False


@dataclass(frozen=True)
class Snapshot:
    """Everything that a checkpoint contains; nothing in it changes when training continues."""

    model: ModelSnapshot
    optimizer: Mapping[str, Tensor]
    random: dict[str, Tensor]
    scaler: dict[str, Any]
    state: TrainState


@dataclass(frozen=True)
class CheckpointWriter:
    """Write the checkpoints of a run.

    Attributes:
        hf_config: the model's `config.json`.
        lora: of the adapters; None where all weights are trained.
        base: name or path of the model that adapters belong to.
    """

    hf_config: dict[str, Any]
    tokenizer: TextTokenizer
    lora: LoRA | None
    base: str

    def write(self, snapshot: Snapshot, folder: Path) -> None:
        """Write a checkpoint, completely or not at all.

        An existing one of the same step stays if it is undamaged and continues the same way; else it is replaced, once
        the new one is complete.

        Raises:
            OSError: if the disk is full or fails.
            SafetensorError: likewise, from the library.
            NonFiniteWeightsError: if there is nothing worth keeping.
        """
        if folder.is_dir() and _is_same(folder, snapshot.state):
            return
        if not all(_is_finite(tensor) for tensor in snapshot.model.weights.values()):
            raise NonFiniteWeightsError(say("the weights contain NaN or Inf"))
        with new_folder(folder, replace=True) as temporary:
            write_weights(snapshot.model.weights, temporary, hf_config=self.hf_config)
            self.tokenizer.save(temporary)
            if self.lora is not None:
                write_adapter(snapshot.model.adapter, temporary / ADAPTER, self.lora, base=self.base)
            write_safetensors(snapshot.optimizer, temporary / OPTIMIZER)
            write_atomically(temporary / RANDOM, partial(save_file, snapshot.random))
            state = {"progress": snapshot.state.as_json(), "scaler": snapshot.scaler}
            write_json(temporary / CHECKPOINT_STATE, state)
            write_checksums(temporary)


def _is_finite(tensor: Tensor) -> bool:
    """Read the tensor once, without a tensor of results: training waits for the CPU that this uses."""
    smallest, largest = tensor.aminmax()  # either is NaN if one value is
    return bool(smallest.isfinite() & largest.isfinite())


def _is_same(folder: Path, state: TrainState) -> bool:
    """Whether a checkpoint on disk is undamaged and continues as one of this state would."""
    try:
        verify_checksums(folder)
        stored = TrainState(**parse_json((folder / CHECKPOINT_STATE).read_text("utf-8"))["progress"])
    except (DamagedError, OSError, ValueError, KeyError, TypeError):
        return False
    return all(getattr(stored, name) == getattr(state, name) for name in DECIDES_CONTINUATION)


def quarantine(folder: Path) -> None:
    """Rename a damaged checkpoint: its step will be computed and saved again."""
    target = folder.with_name(folder.name + DAMAGED_SUFFIX)
    if target.is_dir():
        remove_folder(target)
    folder.rename(target)


@dataclass(frozen=True)
class CheckpointSearch:
    """Where a run continues.

    Attributes:
        folder: the newest undamaged checkpoint; None if there never was one.
        damaged: newer ones, each with the reason.
    """

    folder: Path | None
    damaged: dict[Path, str]


def find_checkpoint(folders: list[Path]) -> CheckpointSearch:
    """Find the newest checkpoint whose files are all as they were written.

    Args:
        folders: oldest first.

    Raises:
        UserError: if there are some, and all of them are damaged.
    """
    damaged: dict[Path, str] = {}
    for folder in reversed(folders):
        try:
            verify_checksums(folder)
        except DamagedError as error:
            damaged[folder] = str(error)
        else:
            return CheckpointSearch(folder, damaged)
    if damaged:
        reasons = "; ".join(
            say("{path} cannot be read: {error}", path=folder, error=reason) for folder, reason in damaged.items()
        )
        raise UserError(
            "every checkpoint is damaged: {named}",
            hint="delete {parent} to begin again from the first step with the same command, or train into "
            "another --out; the text is prepared already",
            named=reasons,
            parent=folders[-1].parent,
        )
    return CheckpointSearch(None, {})


def load_checkpoint(
    folder: Path,
    *,
    model: GPT2,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    rng: RNGState,
) -> TrainState:
    """Restore everything but the model's weights, which `load_gpt2(folder)` reads.

    Raises:
        UserError: if the checkpoint does not fit the model.
    """
    try:
        stored = parse_json((folder / CHECKPOINT_STATE).read_text("utf-8"))
        state = TrainState(**stored["progress"])
        load_optimizer_state(model, optimizer, load_file(folder / OPTIMIZER))
        scaler.load_state_dict(stored["scaler"])
        rng.restore(load_file(folder / RANDOM))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, RecursionError, SafetensorError) as error:
        raise UserError(
            "the checkpoint {folder} cannot be read: {error}",
            hint="train again into another --out; the text is prepared already",
            folder=folder,
            error=describe_os_error(error),
        ) from None
    return state


def drop_old_checkpoints(run: RunDir, keep_bytes: float | None) -> None:
    """Delete old checkpoints, or reduce them to plain models; the newest stays whatever its size.

    Args:
        run: whose checkpoints these are.
        keep_bytes: for all of them together (--keep-gb); None keeps what a resume can need and nothing else.
    """
    folders = run.step_folders()
    for folder in run.path.glob(f"{CHECKPOINTS}/{STEP_FOLDER}{DAMAGED_SUFFIX}"):
        remove_folder(folder)
    left_bytes = float("inf") if keep_bytes is None else keep_bytes
    for age, folder in enumerate(reversed(folders)):
        if keep_bytes is None and age >= KEPT_RESUMABLE:
            remove_folder(folder)
            continue
        if age >= KEPT_RESUMABLE or (age and _folder_bytes(folder) > left_bytes):
            for name in (CHECKPOINT_STATE, CHECKSUMS, OPTIMIZER, RANDOM):  # first the file that makes it resumable
                (folder / name).unlink(missing_ok=True)
        size = _folder_bytes(folder)
        if age and size > left_bytes:
            remove_folder(folder)
        else:
            left_bytes -= size


def _folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


class DamagedError(Exception):
    """A folder is not as it was written; the text names the file and the difference."""


def write_checksums(folder: Path) -> None:
    """Write size and checksum of every file in a folder to `checksums.json`."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    write_json(
        folder / CHECKSUMS,
        {
            "algorithm": ALGORITHM,
            "files": {
                path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, ALGORITHM: digest(path, ALGORITHM)}
                for path in files
            },
        },
    )


def verify_checksums(folder: Path) -> None:
    """Check that every file is as it was written.

    Raises:
        DamagedError: for the first one that is not.
    """
    try:
        written = parse_json((folder / CHECKSUMS).read_text("utf-8"))
        algorithm = str(written.get("algorithm"))
        expected = {str(name): (int(about["bytes"]), str(about[algorithm])) for name, about in written["files"].items()}
    except FileNotFoundError:
        raise DamagedError(say("{file} is missing", file=CHECKSUMS)) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise DamagedError(
            say("{path} cannot be read: {error}", path=CHECKSUMS, error=describe_os_error(error))
        ) from None
    if algorithm not in ALGORITHMS:
        raise DamagedError(say("{file} has checksums of an unknown kind: {kind!r}", file=CHECKSUMS, kind=algorithm))
    for name, (n_bytes, expected_digest) in expected.items():
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            raise DamagedError(say("{file} names a file outside: {name!r}", file=CHECKSUMS, name=name))
        try:
            size = path.stat().st_size
            if size != n_bytes:
                raise DamagedError(
                    say(
                        "{file} has {found:,} bytes, and {written:,} were written",
                        file=name,
                        found=size,
                        written=n_bytes,
                    )
                )
            if digest(path, algorithm) != expected_digest:
                raise DamagedError(say("{file} is not what was written (its checksum differs)", file=name))
        except FileNotFoundError:
            raise DamagedError(say("{file} is missing, or misspelt in {list}", file=name, list=CHECKSUMS)) from None
        except OSError as error:
            raise DamagedError(f"{name}: {describe_os_error(error)}") from None


def digest(path: Path, algorithm: str) -> str:
    """Return the checksum of a file by one of `ALGORITHMS`, in hexadecimal digits."""
    checksum = ALGORITHMS[algorithm]()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(CHUNK_BYTES):
            checksum.update(chunk)
    return str(checksum.hexdigest())
