"""Texts for a person or a file: one below the other, in JSON lines, or streaming in."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from tunesmith.config import GenerateConfig
from tunesmith.data.sources import escapes
from tunesmith.generation.generate import GeneratedText
from tunesmith.messages.catalogue import say
from tunesmith.ui.wrapping import printable
from tunesmith.utils.files import to_json, write_text

DELIMITER = "-" * 20


def texts_block(texts: Sequence[GeneratedText], config: GenerateConfig) -> str:
    """Texts for the terminal, without what could drive it."""
    return _joined([printable(text.text) for text in texts], texts, config)


def keep_texts(texts: Sequence[GeneratedText], config: GenerateConfig) -> None:
    """Write the file that was asked for: an object a line for .jsonl, else the texts as they are."""
    path = Path(config.out or "")
    if path.suffix == ".jsonl":
        write_text(path, "".join(to_json(asdict(text)) + "\n" for text in texts))
    else:
        write_text(path, _joined([text.text for text in texts], texts, config) + "\n")


def _joined(shown: list[str], texts: Sequence[GeneratedText], config: GenerateConfig) -> str:
    """With a line between them where one was asked for or a text has several, and under their temperatures."""
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
    """Shows how writing goes: a single text as it comes, many as a bar on stderr.

    Attributes:
        streamed: whether the text stands on the terminal already.
        asked: most texts that were asked for at once.
    """

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
        """So many texts are finished."""
        self.asked = max(self.asked, of)
        if of == 1:
            return
        if self._task is None:
            self._bar.start()
            self._task = self._bar.add_task(say("writing"), total=of)
        self._bar.update(self._task, completed=done)

    def note(self, line: str) -> None:
        """What computes."""
        if not self._quiet:
            print(printable(line), file=sys.stderr, flush=True)  # noqa: T201

    def show(self, piece: str) -> None:
        """A piece of the only text."""
        if self._streams:
            self.streamed = True
            sys.stdout.write(printable(piece))
            sys.stdout.flush()
