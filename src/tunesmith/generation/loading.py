"""Load a model for generation, and decide how many sequences fit in memory at once."""

from collections.abc import Callable
from dataclasses import dataclass

import psutil
import torch
from torch import Tensor

from tunesmith.config import GenerateConfig
from tunesmith.data.tokenizer import TextTokenizer, load_tokenizer
from tunesmith.distributed.launcher import device_for
from tunesmith.distributed.world import SINGLE_PROCESS, World
from tunesmith.generation.cpu_inference import has_fp16_kernels, prepare_for_inference
from tunesmith.generation.kv_cache import cache_bytes
from tunesmith.i18n import say
from tunesmith.model.attention import attention_backend
from tunesmith.model.gpt2 import GPT2
from tunesmith.model.hf_checkpoint import load_gpt2
from tunesmith.model.hf_config import read_hf_config
from tunesmith.model.hub import local_folder
from tunesmith.utils.device import device_name, resolve_dtype
from tunesmith.utils.oom import free_memory

MAX_BATCH_SIZE = {"cpu": 64, "cuda": 256}
CACHE_MEMORY_SHARE = 0.5
"""Of the free memory; the rest is for prefills and for other programs."""


@dataclass(frozen=True)
class LoadedModel:
    """A model that is ready to generate.

    Attributes:
        logits: hidden states [N, C] to logits [N, V].
    """

    model: GPT2
    tokenizer: TextTokenizer
    logits: Callable[[Tensor], Tensor]

    @property
    def attention_notice(self) -> str:
        """What computes attention on a GPU, and why; empty for a CPU, where there is nothing to choose."""
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


def load_for_generation(config: GenerateConfig, world: World = SINGLE_PROCESS) -> LoadedModel:
    """Load the requested model with its weights packed for inference.

    On a CPU that is fp16 weights and fp32 arithmetic, unless another precision is requested.

    Raises:
        UserError: if it cannot be used.
    """
    device = device_for(world, config.device)
    may_round = config.precision == "auto" and device.type == "cpu" and has_fp16_kernels()
    dtype = torch.float32 if may_round else resolve_dtype(config.precision, device).value
    folder = local_folder(config.model)
    tokenizer = load_tokenizer(folder, read_hf_config(folder))
    model = load_gpt2(folder).to(device, dtype)
    model.compute_dtype = dtype
    return LoadedModel(model, tokenizer, prepare_for_inference(model, config.quantize, may_round=may_round))


def max_batch_size(model: GPT2, positions: int) -> int:
    """Return how many sequences fit in memory, up to where more gain no speed."""
    device = model.head_VC.device
    if device.type == "cpu":
        free_bytes = psutil.virtual_memory().available
    else:
        free_memory()  # what an earlier engine, or training, left cached is free, too
        free_bytes = torch.cuda.mem_get_info(device)[0]
    n_fitting = int(free_bytes * CACHE_MEMORY_SHARE / cache_bytes(model, positions))
    return min(max(n_fitting, 1), MAX_BATCH_SIZE[device.type])
