"""Fine-tune GPT-2 on the GPU you own.

Every command is a function here, with the same names and defaults:

    import tunesmith

    result = tunesmith.train("titles.txt", model="tiny", out="my-model")
    print(result.base_perplexity, "->", result.perplexity)
    for text in tunesmith.generate("my-model", num_samples=5):
        print(text.text)

A run can be watched, shown as the command line shows it, or taken event by event; leaving the loop saves it:

    for event in tunesmith.training_events("titles.txt", model="tiny", out="another"):
        if isinstance(event, tunesmith.events.Evaluated):
            print(event.step, event.val_perplexity)

    with tunesmith.Progress() as progress:
        tunesmith.train("titles.txt", model="tiny", out="shown", on_event=progress.show)

Importing this package imports nothing heavy; torch comes with the first call.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tunesmith.api import (  # noqa: F401  for type checkers and editors
        cache,
        compare_runs,
        doctor,
        evaluate,
        explain,
        export,
        extend_tokenizer,
        generate,
        import_model,
        plan,
        prepare,
        push,
        report,
        runs,
        serve,
        train,
        train_tokenizer,
        training_events,
    )
    from tunesmith.errors import UserError  # noqa: F401
    from tunesmith.training import events  # noqa: F401
    from tunesmith.ui.progress import Progress  # noqa: F401

__version__ = "0.1.0"

_OTHERS = {"Progress": "ui.progress", "UserError": "errors"}
"""Public names that are not functions of `tunesmith.api`, and their modules."""


def _functions() -> list[str]:
    from tunesmith.commands import COMMANDS

    return [*(command.python_name for command in COMMANDS), "compare_runs", "training_events"]


class _Package(ModuleType):
    """Package whose function `doctor` stays callable: importing `tunesmith.doctor.x` would replace it by the module."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name == "doctor" and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> object:
    if name == "__all__":
        return __dir__()
    if name == "events":
        return import_module(f"{__name__}.training.events")
    if name in _OTHERS:
        return getattr(import_module(f"{__name__}.{_OTHERS[name]}"), name)
    if not name.startswith("_") and name in _functions():
        return getattr(import_module(f"{__name__}.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*_functions(), *_OTHERS, "events", "__version__"])
