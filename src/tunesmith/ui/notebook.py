"""Show a run in a notebook: one output of the cell, replaced at every update.

No widgets: they need an extension in the browser, and a saved notebook would show none when opened again.
"""

import sys
import time
from importlib import import_module
from io import StringIO
from typing import Any

from rich.console import Console

from tunesmith.training.events import Event, StepLogged, SystemMetricsLogged
from tunesmith.ui.training_view import LiveScreen

WIDTH = 100
"""Characters; as many as a cell of JupyterLab shows on a laptop."""
REDRAWN_EVERY_S = 0.5
PAGE = '<pre style="white-space:pre;overflow-x:auto;line-height:normal;font-family:monospace">{code}</pre>'
"""Without colors for text and background: the notebook's own apply, light or dark."""


def is_in_notebook() -> bool:
    """Whether displayed output reaches a notebook cell: a kernel runs this program, and not a terminal."""
    ipython = sys.modules.get("IPython")  # without it there cannot be a kernel
    return hasattr(ipython.get_ipython(), "kernel") if ipython else False


class NotebookView:
    """Draws a screen in place when an event comes; steps at most every `every_s` seconds, other events at once."""

    def __init__(self, screen: LiveScreen, *, every_s: float = REDRAWN_EVERY_S) -> None:
        self._screen = screen
        self._every_s = every_s
        self._drawn_at_s = 0.0
        self._output: Any = None

    def start(self) -> None:
        """Open the output that is replaced from now on."""
        display = import_module("IPython.display").display  # only there in a notebook, so of no known type
        self._output = display(self._drawn(), raw=True, display_id=True)

    def follow(self, event: Event) -> None:
        """Draw the new state, unless steps come too fast."""
        is_due = time.monotonic() - self._drawn_at_s >= self._every_s
        if is_due or not isinstance(event, StepLogged | SystemMetricsLogged):
            self._redraw()

    def stop(self) -> None:
        """Draw the last state, which stays."""
        self._redraw()

    def _redraw(self) -> None:
        self._output.update(self._drawn(), raw=True)

    def _drawn(self) -> dict[str, str]:
        self._drawn_at_s = time.monotonic()
        console = Console(file=StringIO(), width=WIDTH, record=True, force_terminal=True, force_jupyter=False)
        console.print(self._screen)
        html = console.export_html(code_format=PAGE, inline_styles=True, clear=False)
        return {"text/plain": console.export_text(), "text/html": html}
