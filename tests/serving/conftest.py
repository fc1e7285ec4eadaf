"""Servers as a user starts them, and a model that recites."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer

LEARNED = [
    "Rain at dusk. The kettle sings.",
    "The lamp burns and the wind is in the north; no ship came near.",
    "Oil for nine nights, rope for none.",
]
RECITED = (
    LEARNED[1] + ' <script>document.title = "taken"</script><img src=x onerror="document.title = 1">'
    " \x1b[31m\x07 灯台の灯、静かな海 🎏 \u202eend"
)
"""A line of the training text, what a page must not run, what a terminal or a line must not obey, and characters of
several tokens."""


@pytest.fixture(scope="session")
def learned() -> list[str]:
    """What the models are said to be trained on."""
    return LEARNED


@pytest.fixture(scope="session")
def recited() -> str:
    """What the model named reciter writes."""
    return RECITED


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory: pytest.TempPathFactory, small_tokenizer: Tokenizer) -> Path:
    """Random weights, 64 positions, 300 tokens."""
    folder = tmp_path_factory.mktemp("models") / "small"
    _save(_random_model(n_positions=64, n_embd=32, n_layer=2, n_head=4), folder, small_tokenizer)
    return folder


@pytest.fixture(scope="session")
def reciting_folder(tmp_path_factory: pytest.TempPathFactory, small_tokenizer: Tokenizer) -> Path:
    """A GPT-2 that writes one text whatever its seed: each position points at the next token.

    The blocks add nothing, so what reaches the final norm is the token's embedding and the position's, which is a
    thousand times the embedding of the token that comes next.
    """
    ids = small_tokenizer.encode(RECITED, add_special_tokens=False).ids
    model = _random_model(n_positions=len(ids) + 1, n_embd=128, n_layer=1, n_head=1)
    with torch.no_grad():
        model.transformer.wte.weight.normal_()
        for projection in (model.transformer.h[0].attn.c_proj, model.transformer.h[0].mlp.c_proj):
            projection.weight.zero_()
            projection.bias.zero_()
        model.transformer.wpe.weight.copy_(1000 * model.transformer.wte.weight[[*ids, 0]])
    folder = tmp_path_factory.mktemp("models") / "reciter"
    _save(model, folder, small_tokenizer)
    return folder


def _random_model(**shape: int) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(1)
    return GPT2LMHeadModel(GPT2Config(vocab_size=300, bos_token_id=0, eos_token_id=0, initializer_range=0.3, **shape))


def _save(model: Any, folder: Path, tokenizer: Tokenizer) -> None:
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))


@pytest.fixture(scope="session")
def learned_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the models are said to be trained on."""
    path = tmp_path_factory.mktemp("text") / "log.txt"
    path.write_text("\n".join(LEARNED) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def start_server(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., AbstractContextManager[SimpleNamespace]]:
    """A function that starts `tunesmith serve` on a free port and ends it with SIGTERM; gives url, api and process."""
    cache = tmp_path_factory.mktemp("cache")

    @contextmanager
    def started(*arguments: object, **environment: str) -> Iterator[SimpleNamespace]:
        command = [sys.executable, "-m", "tunesmith", "serve", *map(str, arguments), "--port", "0", "--json", "--quiet"]
        variables = {**os.environ, "TUNESMITH_CACHE": str(cache), "HF_HUB_OFFLINE": "1", **environment}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=variables)
        try:
            assert process.stdout is not None
            told = json.loads(process.stdout.readline())
            yield SimpleNamespace(url=told["url"], api=told["api"], process=process)
        finally:
            process.terminate()
            process.communicate(timeout=60)

    return started


@pytest.fixture(scope="session")
def server(
    start_server: Callable[..., AbstractContextManager[SimpleNamespace]],
    small_folder: Path,
    reciting_folder: Path,
    learned_file: Path,
) -> Iterator[SimpleNamespace]:
    """Three models: tiny, small and reciter."""
    models = ("tiny", small_folder, reciting_folder)
    limits = ("--batch-size", 64, "--max-queue", 128, "--precision", "fp32")
    with start_server(*models, "--training-data", learned_file, *limits) as running:
        yield running


@pytest.fixture(scope="session")
def token() -> str:
    """Of the guarded server."""
    return "a-token-for-these-tests"


@pytest.fixture(scope="session")
def guarded(
    start_server: Callable[..., AbstractContextManager[SimpleNamespace]], small_folder: Path, token: str
) -> Iterator[SimpleNamespace]:
    """A server with a token and a short time for answers, one text at a time."""
    limits = ("--batch-size", 1, "--request-timeout", 1, "--max-new-tokens", 1_000_000)
    with start_server("tiny", small_folder, *limits, TUNESMITH_API_KEY=token) as running:
        yield running
