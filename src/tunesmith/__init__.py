"""Fine-tune GPT-2 on the GPU you own.

Every verb of the command line is a function here, with the same names and defaults:

    import tunesmith

    result = tunesmith.train("titles.txt", model="tiny", out="my-model")
    print(result.base_perplexity, "->", result.perplexity)
    for text in tunesmith.generate("my-model", num_samples=5):
        print(text.text)

Importing this package imports nothing heavy; torch comes with the first call.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tunesmith.api import evaluate, export, generate, plan, prepare, train, train_tokenizer
    from tunesmith.errors import UserError

__version__ = "0.1.0"

__all__ = ["UserError", "__version__", "evaluate", "export", "generate", "plan", "prepare", "train", "train_tokenizer"]

_HOMES = {
    "evaluate": "api",
    "export": "api",
    "generate": "api",
    "plan": "api",
    "prepare": "api",
    "train": "api",
    "train_tokenizer": "api",
    "UserError": "errors",
}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
