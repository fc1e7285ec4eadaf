"""A model that is ready to write, and how many texts it can write at once."""

from collections.abc import Callable
from dataclasses import dataclass

import psutil
import torch
from torch import Tensor

from tunesmith.config import GenerateConfig
from tunesmith.data.tokenizer import TextTokenizer, load_tokenizer
from tunesmith.distributed.launcher import device_for
from tunesmith.distributed.world import SINGLE_PROCESS, World
from tunesmith.generation.cache import cache_bytes
from tunesmith.generation.inference_weights import ready_for_writing
from tunesmith.generation.packed_linears import can_hold_half
from tunesmith.machine import choose_dtype, device_name
from tunesmith.messages.catalogue import say
from tunesmith.model.attention import attention_backend
from tunesmith.model.config_file import read_hf_config
from tunesmith.model.gpt2 import GPT2
from tunesmith.model.hub import local_folder
from tunesmith.model.weights import load_gpt2
from tunesmith.out_of_memory import free_memory

MOST_TEXTS_AT_ONCE = {"cpu": 64, "cuda": 256}
CACHE_MEMORY_SHARE = 0.5
"""Of the free memory; the rest is for reading prompts and for everybody else."""


@dataclass(frozen=True)
class TextModel:
    """A model that is ready to write.

    Attributes:
        model: on its device.
        tokenizer: its own.
        logits: hidden states [N, C] to logits [N, V].
    """

    model: GPT2
    tokenizer: TextTokenizer
    logits: Callable[[Tensor], Tensor]

    @property
    def says(self) -> str:
        """What computes, and with what attention, and why; empty for a CPU, where there is nothing to choose."""
        if not self.model.head_VC.is_cuda:
            return ""
        attention = attention_backend(self.model)
        return say(
            "attention of {device} in {dtype}: {attention} ({reason})",
            device=device_name(self.model.head_VC.device),
            dtype=str(self.model.attention_dtype).removeprefix("torch."),
            attention=attention.value,
            reason=attention.reason,
        )


def load_for_writing(config: GenerateConfig, world: World = SINGLE_PROCESS) -> TextModel:
    """The model that was asked for, with its weights arranged for writing.

    On a CPU that is fp16 weights and fp32 arithmetic, unless another precision is asked for.

    Raises:
        UserError: if it cannot be used.
    """
    device = device_for(world, config.device)
    may_round = config.precision == "auto" and device.type == "cpu" and can_hold_half()
    dtype = torch.float32 if may_round else choose_dtype(config.precision, device).value
    folder = local_folder(config.model)
    tokenizer = load_tokenizer(folder, read_hf_config(folder))
    model = load_gpt2(folder).to(device, dtype)
    model.compute_dtype = dtype
    return TextModel(model, tokenizer, ready_for_writing(model, config.quantize, may_round=may_round))


def texts_that_fit(model: GPT2, positions: int) -> int:
    """As many as find room, up to what still gains speed."""
    device = model.head_VC.device
    if device.type == "cpu":
        free_bytes = psutil.virtual_memory().available
    else:
        free_memory()  # what an earlier engine, or training, left cached is free, too
        free_bytes = torch.cuda.mem_get_info(device)[0]
    room = int(free_bytes * CACHE_MEMORY_SHARE / cache_bytes(model, positions))
    return min(max(room, 1), MOST_TEXTS_AT_ONCE[device.type])
