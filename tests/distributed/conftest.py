"""What all runs of several processes share."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from tunesmith.model.gpt2 import GPT2
from tunesmith.model.hf_checkpoint import save_gpt2
from tunesmith.model.hf_config import parse_hf_config

SHAPE = {
    "model_type": "gpt2",
    "vocab_size": 300,
    "n_positions": 64,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "bos_token_id": 0,
    "eos_token_id": 0,
}


@pytest.fixture(scope="module")
def module_model_folder(tmp_path_factory: pytest.TempPathFactory, small_tokenizer: Tokenizer) -> Path:
    """A very small model with random weights."""
    folder = tmp_path_factory.mktemp("model")
    model = GPT2(parse_hf_config(SHAPE, origin="here"))
    model.initialize(torch.Generator().manual_seed(0))
    save_gpt2(model, folder, hf_config=SHAPE)
    small_tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="module")
def own_caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No process reads the user's caches; for fixtures that outlive a test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNESMITH_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("OMP_NUM_THREADS", "1")
        yield
