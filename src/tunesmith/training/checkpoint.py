"""The state of a run on disk: a model folder, plus what exact continuation needs.

    checkpoints/step-00000200/
        config.json  model.safetensors  tokenizer files     a model folder like any other
        optimizer.safetensors                               both moments and step counts, by parameter name
        random.safetensors                                  torch's random states
        adapter/                                            what is learned, where that is an adapter
        state.json                                          counters, best so far, loss scale

Written into a temporary folder, synced, then renamed: a folder named step-* is always whole. The data position
is the step number itself (`tunesmith.data.batches`), so nothing else is needed to find it again.
"""

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from tunesmith.data.tokenizer import TextTokenizer
from tunesmith.errors import UserError
from tunesmith.files import sync_folder, write_atomically, write_json
from tunesmith.model.adapters import save_adapter
from tunesmith.model.gpt2 import GPT2
from tunesmith.model.lora import LoRA
from tunesmith.model.weights import save_gpt2
from tunesmith.training.optimizer import load_optimizer_state, optimizer_state, whole_weights

ADAPTER = "adapter"


@dataclass
class Progress:
    """How far a run is; what the loop changes and a checkpoint keeps.

    Attributes:
        step: optimizer steps made.
        tokens: tokens learned from.
        training_s: time spent in steps.
        elapsed_s: time spent in all.
        base_perplexity: before training.
        best_perplexity: lowest after any step so far; infinite before the first evaluation.
        best_step: when that was.
        pieces: into how many each micro-batch is dealt, because memory ran out.
    """

    step: int = 0
    tokens: int = 0
    training_s: float = 0.0
    elapsed_s: float = 0.0
    base_perplexity: float = float("nan")
    best_perplexity: float = float("inf")
    best_step: int = 0
    pieces: int = 1


def save_checkpoint(
    folder: Path,
    *,
    model: GPT2,
    hf_config: dict[str, Any],
    tokenizer: TextTokenizer,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    progress: Progress,
    lora: LoRA | None,
    base: str,
) -> None:
    """Write a checkpoint, whole or not at all; one that is there already is the same and stays."""
    if folder.is_dir():
        return
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    temporary.mkdir(parents=True)
    try:
        save_gpt2(model, temporary, hf_config=hf_config, whole=whole_weights(model, optimizer))
        tokenizer.save(temporary)
        if lora is not None:
            save_adapter(model, temporary / ADAPTER, lora, base=base)
        tensors = optimizer_state(model, optimizer)
        write_atomically(temporary / "optimizer.safetensors", lambda path: save_file(tensors, path))
        write_atomically(temporary / "random.safetensors", lambda path: save_file(_random_states(), path))
        numbers = {key: value for key, value in asdict(progress).items() if value != float("inf")}
        write_json(temporary / "state.json", {"progress": numbers, "scaler": scaler.state_dict()})
        sync_folder(temporary)
        temporary.rename(folder)
        sync_folder(folder.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def load_checkpoint(
    folder: Path, *, model: GPT2, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler
) -> Progress:
    """Restore everything but the model's weights, which `load_gpt2(folder)` reads.

    Raises:
        UserError: if the checkpoint is damaged.
    """
    try:
        state = json.loads((folder / "state.json").read_text("utf-8"))
        progress = Progress(**state["progress"])
        load_optimizer_state(model, optimizer, load_file(folder / "optimizer.safetensors"))
        scaler.load_state_dict(state["scaler"])
        _set_random_states(load_file(folder / "random.safetensors"))
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise UserError(
            f"the checkpoint {folder} cannot be read: {error}",
            hint="train again into another --out; the text is prepared already",
        ) from None
    return progress


def _random_states() -> dict[str, torch.Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_initialized():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def _set_random_states(states: dict[str, torch.Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
