"""Show generated texts: in a block, in JSON lines, or streaming in."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from tunesmith.config import GenerateConfig
from tunesmith.data.readers import escapes
from tunesmith.generation.generate import GeneratedText
from tunesmith.i18n import say
from tunesmith.ui.wrapping import printable
from tunesmith.utils.files import to_json, write_text

DELIMITER = "-" * 20


def texts_block(texts: Sequence[GeneratedText], config: GenerateConfig) -> str:
    """Join the texts for the terminal, without control characters."""
    return _joined([printable(text.text) for text in texts], texts, config)


def keep_texts(texts: Sequence[GeneratedText], config: GenerateConfig) -> None:
    """Write the requested file: one object per line for .jsonl, else the texts unchanged."""
    path = Path(config.out or "")
    if path.suffix == ".jsonl":
        write_text(path, "".join(to_json(asdict(text)) + "\n" for text in texts))
    else:
        write_text(path, _joined([text.text for text in texts], texts, config) + "\n")


def _joined(shown: list[str], texts: Sequence[GeneratedText], config: GenerateConfig) -> str:
    """Join with the requested or a fitting delimiter; with several temperatures each text gets a title."""
    side_by_side = len(config.temperature) > 1
    if side_by_side:
        shown = [
            f"[{say('temperature {value:g}', value=text.temperature)}]\n{one}"
            for text, one in zip(texts, shown, strict=True)
        ]
    if config.sample_delim is not None:
        delimiter = f"\n{escapes(config.sample_delim).strip(chr(10))}\n"
    else:
        delimiter = f"\n{DELIMITER}\n" if any("\n" in one for one in shown) else "\n"
    return delimiter.join(shown)


class TextProgress:
    """Shows the progress of generation: a single text as it comes, several as a bar on stderr."""

    def __init__(self, *, quiet: bool, streams: bool) -> None:
        self.streamed = False
        self.asked = 0
        self._quiet = quiet
        self._streams = streams and sys.stdout.isatty()
        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=quiet or not console.is_terminal,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
        if self.streamed:
            sys.stdout.write("\n")

    def count(self, done: int, of: int) -> None:
        """Show that `done` texts are finished."""
        self.asked = max(self.asked, of)
        if of == 1:
            return
        if self._task is None:
            self._bar.start()
            self._task = self._bar.add_task(say("writing"), total=of)
        self._bar.update(self._task, completed=done)

    def note(self, line: str) -> None:
        """Print which model and device generate."""
        if not self._quiet:
            print(printable(line), file=sys.stderr, flush=True)  # noqa: T201

    def show(self, piece: str) -> None:
        """Print a piece of the only text."""
        if self._streams:
            self.streamed = True
            sys.stdout.write(printable(piece))
            sys.stdout.flush()
