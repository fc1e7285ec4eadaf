"""A captured terminal as an SVG for the README: `python recipes/terminal_picture.py TITLE < SCREEN > PICTURE.svg`.

SCREEN is text with ANSI colors, for example from `tmux capture-pane -e -p`. The picture refers to nothing outside
itself: fonts are the reader's.
"""

import io
import re
import sys

from rich.console import Console
from rich.text import Text

WIDTH = 100


def main() -> None:
    """Read a screen, write a picture."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    for line in sys.stdin.read().rstrip().split("\n"):
        console.print(Text.from_ansi(line.rstrip()), soft_wrap=True)
    svg = console.export_svg(title=sys.argv[1])
    svg = re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL)
    sys.stdout.write(re.sub(r"Fira Code, monospace", "ui-monospace, Menlo, Consolas, monospace", svg))


if __name__ == "__main__":
    main()
