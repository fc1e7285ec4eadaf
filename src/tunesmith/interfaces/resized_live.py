"""A screen that is drawn anew in place, also when the window has become narrower meanwhile.

Terminals then wrap what stands there, so that the old screen takes more rows than were written, and rich would leave
its first ones behind.
"""

from rich.console import Console, ConsoleRenderable
from rich.control import Control
from rich.live import Live
from rich.segment import ControlType

from tunesmith.interfaces.live_screen import LiveScreen


class ResizedLive(Live):
    """Rich's live display of a screen that knows how large it was drawn."""

    def __init__(self, screen: LiveScreen, *, console: Console, refresh_per_second: float) -> None:
        super().__init__(screen, console=console, refresh_per_second=refresh_per_second, transient=True)
        self._run_screen = screen

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """As rich does, after clearing the rows that wrapping has added."""
        added = self._run_screen.wrapped_rows(self.console.width) if self.console.is_interactive else 0
        climb = ((ControlType.CURSOR_UP, 1), (ControlType.ERASE_IN_LINE, 2)) * added
        clear = Control(ControlType.CARRIAGE_RETURN, (ControlType.ERASE_IN_LINE, 2), *climb)
        return [*([clear] if added else []), *super().process_renderables(renderables)]
