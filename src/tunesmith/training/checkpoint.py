"""The state of a run on disk: a model folder, plus what exact continuation needs.

    checkpoints/step-00000200/
        config.json  model.safetensors  tokenizer files     a model folder like any other
        optimizer.safetensors                               the optimizer's state, by parameter name
        random.safetensors                                  torch's random states
        adapter/                                            what is learned, where that is an adapter
        state.json                                          counters, best so far, loss scale
        checksums.json                                      size and checksum of every file above

Written into a temporary folder, synced, then renamed: a folder named step-* is always whole, unless something changes
it later, which the checksums tell. The data position is the step number itself (`tunesmith.data.batches`), so nothing
else is needed to find it again.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tunesmith.data.tokenizer import TextTokenizer
from tunesmith.errors import UserError
from tunesmith.messages.catalogue import say
from tunesmith.messages.system_errors import said_by_system
from tunesmith.model.gpt2 import GPT2
from tunesmith.model.gpt2_config import LoRA
from tunesmith.model.hf_checkpoint import write_safetensors, write_weights
from tunesmith.model.lora import write_adapter
from tunesmith.training.chance import Chance
from tunesmith.training.checksums import DamagedError, verify_checksums, write_checksums
from tunesmith.training.optimizer import load_optimizer_state
from tunesmith.training.progress import Progress
from tunesmith.training.snapshot import Snapshot
from tunesmith.utils.files import new_folder, parse_json, remove_folder, write_atomically, write_json

ADAPTER = "adapter"
DAMAGED_SUFFIX = ".damaged"
STATE = "state.json"
OPTIMIZER = "optimizer.safetensors"
RANDOM = "random.safetensors"
WAY_ON = ("rollbacks", "left_out", "precision", "pieces", "recompute", "best_step")
"""What of the progress decides how a run continues from a checkpoint; times and energy do not."""


class NotFiniteError(Exception):
    """The weights hold NaN or infinity: a checkpoint of them would only replace a good one."""


@dataclass(frozen=True)
class CheckpointWriter:
    """What every checkpoint of a run has in common.

    Attributes:
        hf_config: the model's `config.json`.
        tokenizer: the model's own.
        lora: what the adapters were made by; None where all weights are learned.
        base: name or path of the model that adapters belong to.
    """

    hf_config: dict[str, Any]
    tokenizer: TextTokenizer
    lora: LoRA | None
    base: str

    def write(self, snapshot: Snapshot, folder: Path) -> None:
        """Write a checkpoint, whole or not at all.

        One of the same step that is there already stays if it is undamaged and continues the same way; else it is
        replaced, once the new one is whole.

        Raises:
            OSError: if the disk is full or fails.
            SafetensorError: likewise, said by the library.
            NotFiniteError: if there is nothing worth keeping.
        """
        if folder.is_dir() and _is_same(folder, snapshot.progress):
            return
        if not all(_is_finite(tensor) for tensor in snapshot.model.weights.values()):
            raise NotFiniteError(say("the weights are no numbers any more (NaN or infinity)"))
        with new_folder(folder, replace=True) as temporary:
            write_weights(snapshot.model.weights, temporary, hf_config=self.hf_config)
            self.tokenizer.save(temporary)
            if self.lora is not None:
                write_adapter(snapshot.model.adapter, temporary / ADAPTER, self.lora, base=self.base)
            write_safetensors(snapshot.optimizer, temporary / OPTIMIZER)
            write_atomically(temporary / RANDOM, partial(save_file, snapshot.random))
            write_json(temporary / STATE, {"progress": snapshot.progress.as_json(), "scaler": snapshot.scaler})
            write_checksums(temporary)


def _is_finite(tensor: Tensor) -> bool:
    """Read once, without a tensor of verdicts: training waits for the processor that this takes."""
    smallest, largest = tensor.aminmax()  # either is NaN if one number is
    return bool(smallest.isfinite() & largest.isfinite())


def _is_same(folder: Path, progress: Progress) -> bool:
    """Whether a checkpoint on disk is undamaged and continues as one of this progress would."""
    try:
        verify_checksums(folder)
        there = Progress(**parse_json((folder / STATE).read_text("utf-8"))["progress"])
    except (DamagedError, OSError, ValueError, KeyError, TypeError):
        return False
    return all(getattr(there, name) == getattr(progress, name) for name in WAY_ON)


def set_aside(folder: Path) -> None:
    """Give a damaged checkpoint another name: its step will be made and saved again."""
    aside = folder.with_name(folder.name + DAMAGED_SUFFIX)
    if aside.is_dir():
        remove_folder(aside)
    folder.rename(aside)


@dataclass(frozen=True)
class FoundCheckpoint:
    """Where a run continues.

    Attributes:
        folder: the newest checkpoint that is undamaged; None if there never was one.
        damaged: newer ones that are not, each with the reason.
    """

    folder: Path | None
    damaged: dict[Path, str]


def find_checkpoint(folders: list[Path]) -> FoundCheckpoint:
    """Take the newest checkpoint whose files are all as they were written.

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
            return FoundCheckpoint(folder, damaged)
    if damaged:
        named = "; ".join(
            say("{path} cannot be read: {error}", path=folder, error=reason) for folder, reason in damaged.items()
        )
        raise UserError(
            "every checkpoint is damaged: {named}",
            hint="delete {parent} to begin again from the first step with the same command, or train into "
            "another --out; the text is prepared already",
            named=named,
            parent=folders[-1].parent,
        )
    return FoundCheckpoint(None, {})


def load_checkpoint(
    folder: Path,
    *,
    model: GPT2,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    chance: Chance,
) -> Progress:
    """Restore everything but the model's weights, which `load_gpt2(folder)` reads.

    Raises:
        UserError: if the checkpoint does not fit the model.
    """
    try:
        state = parse_json((folder / STATE).read_text("utf-8"))
        progress = Progress(**state["progress"])
        load_optimizer_state(model, optimizer, load_file(folder / OPTIMIZER))
        scaler.load_state_dict(state["scaler"])
        chance.restore(load_file(folder / RANDOM))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, RecursionError, SafetensorError) as error:
        raise UserError(
            "the checkpoint {folder} cannot be read: {error}",
            hint="train again into another --out; the text is prepared already",
            folder=folder,
            error=said_by_system(error),
        ) from None
    return progress
