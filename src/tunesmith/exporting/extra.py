"""Libraries that only some exports need (`pip install 'tunesmith[export]'`)."""

from importlib import import_module
from typing import Any

from tunesmith.errors import UserError


def needs(library: str) -> Any:  # noqa: ANN401  a module
    """Import a library of the extra.

    Raises:
        UserError: if it is not installed.
    """
    try:
        return import_module(library)
    except ImportError:
        raise UserError(
            "this export needs the library {library}, which is not installed",
            hint="pip install 'tunesmith[export]'",
            library=library.partition(".")[0],
        ) from None
