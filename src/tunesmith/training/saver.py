"""Writing beside training: one thing after the other in a thread, and a failed write ends nothing.

When the disk is full or fails, the last good checkpoint stays where it is, training goes on, and the next write tries
again. A checkpoint is only written when the best model that it speaks of stands in the run folder.
"""

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from safetensors import SafetensorError

from tunesmith.messages.catalogue import Phrase
from tunesmith.messages.system_errors import said_by_system
from tunesmith.training.checkpoint import NotFiniteError
from tunesmith.training.events import Saved, SaveFailed

Write = Callable[[], object]


@dataclass(frozen=True)
class _Job:
    step: int
    folder: Path | None
    write: Write


class Saver:
    """A thread that writes.

    Used as a context manager: leaving it waits for what is being written, unless by a second Ctrl-C.
    """

    def __init__(self) -> None:
        self._jobs: queue.Queue[_Job | None] = queue.Queue()
        self._outcomes: queue.SimpleQueue[Saved | SaveFailed | BaseException] = queue.SimpleQueue()
        self._unpublished: _Job | None = None
        self._failure: Phrase | None = None
        self._thread = threading.Thread(target=self._work, name="saver", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._jobs.put(None)
        if kind is None or not issubclass(kind, KeyboardInterrupt):
            self._thread.join()

    @property
    def failure(self) -> Phrase | None:
        """Why the newest write did not get on disk; None if it did. Right only after `wait`."""
        return self._failure

    def publish(self, step: int, write: Write) -> None:
        """Put a new best model into the run folder, instead of any that could not be written yet."""
        self._jobs.put(_Job(step, None, write))

    def save(self, step: int, folder: Path, write: Write) -> None:
        """Write a checkpoint."""
        self._jobs.put(_Job(step, folder, write))

    def wait(self) -> None:
        """Until all that was asked for is written or has failed."""
        self._jobs.join()

    def outcomes(self) -> Iterator[Saved | SaveFailed]:
        """What was written and what failed since the last time.

        Raises:
            BaseException: whatever went wrong in the thread that is no matter of the disk.
        """
        while not self._outcomes.empty():
            outcome = self._outcomes.get()
            if isinstance(outcome, BaseException):
                raise outcome
            yield outcome

    def _work(self) -> None:
        while job := self._jobs.get():
            try:
                self._do(job)
            except (OSError, SafetensorError, NotFiniteError) as error:
                self._failure = _reason(error)
                self._outcomes.put(SaveFailed(job.step, self._failure))
            except BaseException as error:  # noqa: BLE001  raised in the main thread
                self._outcomes.put(error)
            finally:
                self._jobs.task_done()

    def _do(self, job: _Job) -> None:
        if job.folder is None:
            self._unpublished = job
        if self._unpublished:
            self._unpublished.write()
            self._unpublished = None
        if job.folder is not None:
            job.write()
            self._outcomes.put(Saved(job.step, job.folder))
        self._failure = None


def _reason(error: OSError | SafetensorError | NotFiniteError) -> Phrase:
    """In the system's own words; safetensors wraps them in a sentence."""
    reason = said_by_system(error)
    if isinstance(error, OSError) and error.filename:
        return Phrase("{path}: {reason}", {"path": str(error.filename), "reason": reason})
    return reason
