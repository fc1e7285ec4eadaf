"""Fine-tune GPT-2 on the GPU you own.

Every verb of the command line is a function here, with the same names and defaults:

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

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tunesmith.api import (
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
    from tunesmith.errors import UserError
    from tunesmith.training import events
    from tunesmith.ui.progress import Progress

__version__ = "0.1.0"

__all__ = [
    "Progress",
    "UserError",
    "__version__",
    "compare_runs",
    "doctor",
    "evaluate",
    "events",
    "explain",
    "export",
    "extend_tokenizer",
    "generate",
    "import_model",
    "plan",
    "prepare",
    "push",
    "report",
    "runs",
    "serve",
    "train",
    "train_tokenizer",
    "training_events",
]

_HOMES = {
    "compare_runs": "api",
    "doctor": "api",
    "evaluate": "api",
    "explain": "api",
    "export": "api",
    "extend_tokenizer": "api",
    "generate": "api",
    "import_model": "api",
    "plan": "api",
    "prepare": "api",
    "push": "api",
    "report": "api",
    "runs": "api",
    "serve": "api",
    "train": "api",
    "train_tokenizer": "api",
    "training_events": "api",
    "Progress": "ui.progress",
    "UserError": "errors",
}


def __getattr__(name: str) -> object:
    if name == "events":
        return import_module(f"{__name__}.training.events")
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
