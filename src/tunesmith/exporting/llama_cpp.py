"""A GGUF file run by llama.cpp, through llama-cpp-python."""

from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from tunesmith.exporting.extra import needs
from tunesmith.exporting.verification import Logits

F32_CACHE = 0
"""`GGML_TYPE_F32`, for keys and values: what is compared is the file."""


class LlamaCpp:
    """One text at a time; logits of every token are kept.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        library = needs("llama_cpp")
        self.name = f"llama-cpp-python {version('llama-cpp-python')}"
        self._llama = library.Llama(
            str(path),
            n_ctx=0,  # all that the model has
            n_gpu_layers=0,
            logits_all=True,
            type_k=F32_CACHE,
            type_v=F32_CACHE,
            verbose=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._llama.close()

    def encode(self, text: str) -> list[int] | None:
        """The ids, end-of-text before them."""
        return [int(token) for token in self._llama.tokenize(text.encode("utf-8"), add_bos=True, special=False)]

    def read(self, tokens: list[int]) -> Logits:
        """The logits behind each token, [N, V]."""
        self._llama.reset()
        self._llama.eval(tokens)
        return np.array(self._llama.scores[: len(tokens)], np.float32)

    def go_on(self, token: int) -> Logits:
        """The logits behind one more, [V]."""
        self._llama.eval([token])
        return np.array(self._llama.scores[self._llama.n_tokens - 1], np.float32)
