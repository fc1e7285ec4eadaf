"""What all tests share: small checkpoints made on the spot, and a world without network or the user's cache."""

import os
import sys
import tempfile
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # one of several processes: the tests' models are too small for two threads
    os.environ.setdefault("OMP_NUM_THREADS", "1")
if "ATEN_CPU_CAPABILITY" in os.environ:  # torch's cache of compiled code aborts on another instruction set's
    capability = os.environ["ATEN_CPU_CAPABILITY"]
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(Path(tempfile.gettempdir(), f"torchinductor-{capability}")))

import torch
from hypothesis import settings
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.utils._python_dispatch import TorchDispatchMode

from tunesmith.i18n import set_language
from tunesmith.model.gpt2_config import EVALUATION_CHUNK_ROWS, LOSS_CHUNK_ROWS
from tunesmith.model.loss import NATS_ROWS

settings.register_profile("no clock", deadline=None)  # no test asserts time; the first example may import a library
settings.load_profile("no clock")

MOST_WORKERS = 8
"""Each imports torch and transformers, which takes about a gigabyte."""
END_OF_TEXT = "<|endoftext|>"
TRAINING_TEXT = [
    "the lamp burns and the wind is in the north",
    "the gulls are loud today; no ship came near",
    "oil for nine nights, rope for none - so it goes!",
    "Rain at dusk. The kettle sings, the stairs do not.",
]


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--run-slow`: also the cases that are marked slow."""
    parser.addoption("--run-slow", action="store_true", help="run the tests marked slow, too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave slow cases out, unless they are asked for by `--run-slow`, by `-m` or by naming one of them."""
    if config.getoption("--run-slow") or config.getoption("-m") or any("::" in argument for argument in config.args):
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    if slow:
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if not item.get_closest_marker("slow")]


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """A process for each core for the whole suite; none beside pytest's own for chosen files, which start sooner so."""
    return min(os.cpu_count() or 1, MOST_WORKERS) if config.args == config.getini("testpaths") else 0


@pytest.fixture(autouse=True)
def _isolated(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads the user's caches, asks a hub, or speaks the user's language."""
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    set_language("en")
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path_factory.mktemp("hf")))


@pytest.fixture
def serve() -> Callable[..., AbstractContextManager[tuple[str, list[str]]]]:
    """A function that serves on loopback: a handler's class and its attributes give an address and what was asked."""

    @contextmanager
    def serving(handler: type[BaseHTTPRequestHandler], **attributes: Any) -> Iterator[tuple[str, list[str]]]:
        asked_for: list[str] = []
        made = type("Handler", (handler,), {**attributes, "asked_for": asked_for})
        server = ThreadingHTTPServer(("127.0.0.1", 0), made)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked_for
        finally:
            server.shutdown()
            thread.join()
            server.server_close()

    return serving


@pytest.fixture(scope="session")
def small_tokenizer() -> Tokenizer:
    """A byte-level BPE of 300 entries whose first one is end-of-text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TRAINING_TEXT, trainer)
    return tokenizer


@pytest.fixture
def make_model_folder(tmp_path: Path, small_tokenizer: Tokenizer) -> Callable[..., Path]:
    """A function that lets transformers write a random GPT-2 folder, any field of its config overridden."""
    from transformers import GPT2Config, GPT2LMHeadModel

    def make(name: str = "model", *, seed: int = 0, tokenizer: bool = True, **overrides: Any) -> Path:
        folder = tmp_path / name
        shape = {
            "vocab_size": 300,
            "n_positions": 64,
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 4,
            "bos_token_id": 0,
            "eos_token_id": 0,
            "attn_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "resid_pdrop": 0.0,
        }
        torch.manual_seed(seed)
        model = GPT2LMHeadModel(GPT2Config(**{**shape, **overrides}))
        with torch.no_grad():  # transformers starts biases at 0 and norms at 1, which would hide mistakes in them
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.05)
        model.save_pretrained(folder)
        if tokenizer:
            small_tokenizer.save(str(folder / "tokenizer.json"))
        return folder

    return make


class Watch(TorchDispatchMode):
    """Counts operations, and the largest sum of bytes that live at once beside what was there before.

    Attributes:
        names: how often each operation was called.
        peak_bytes: most that tensors made here took at one moment.
    """

    def __init__(self, *there_before: torch.Tensor) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()
        self.peak_bytes = self._live_bytes = 0
        self._known = {tensor.untyped_storage()._cdata for tensor in there_before}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        del types
        self.names[str(function)] += 1
        if function is torch.ops.aten.addmm.dtype_out:  # its meta form is a decomposition, which allocates
            return kwargs["out"]
        result = function(*args, **kwargs or {})
        for tensor in result if isinstance(result, list | tuple) else [result]:
            if isinstance(tensor, torch.Tensor):
                self._see(tensor.untyped_storage())
        return result

    def _see(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._known:
            self._known.add(key)
            self._live_bytes += storage.nbytes()
            self.peak_bytes = max(self.peak_bytes, self._live_bytes)
            weakref.finalize(storage, self._forget, key, storage.nbytes())

    def _forget(self, key: int, n_bytes: int) -> None:
        self._known.discard(key)
        self._live_bytes -= n_bytes


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Tensors on torch's meta device go the way of a GPU; what the loss kernel is asked for instead of its launch."""
    monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda tensor: tensor.device.type == "meta"), raising=False)
    for table in (EVALUATION_CHUNK_ROWS, LOSS_CHUNK_ROWS, NATS_ROWS):
        monkeypatch.setitem(table, "meta", table["cuda"])
    asked: list[dict[str, Any]] = []
    module = ModuleType("tunesmith.model.loss_triton")
    module.launch = lambda *_, **options: asked.append(options)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr("tunesmith.model.loss.has_triton", lambda: True)
    return asked


@pytest.fixture
def watch() -> type[Watch]:
    """A context that counts operations and bytes."""
    return Watch
