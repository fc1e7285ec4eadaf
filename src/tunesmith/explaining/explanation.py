"""What `explain` answers."""

from dataclasses import dataclass
from typing import Any

UNKNOWN = "unknown"


@dataclass(frozen=True)
class Cause:
    """One cause, in the person's language.

    Attributes:
        name: of the row of the table of symptoms, or of what a run folder shows.
        cause: in a sentence.
        evidence: what shows it: a line of the log, figures of the run.
        fix: what to do.
    """

    name: str
    cause: str
    evidence: tuple[str, ...]
    fix: str


@dataclass(frozen=True)
class Explanation:
    """An answer.

    Attributes:
        source: what was read.
        causes: the likeliest first; empty where none is known.
        others: names of symptoms that were seen too, and tell less.
    """

    source: str
    causes: tuple[Cause, ...]
    others: tuple[Cause, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The keys of `tunesmith explain --json`."""
        first = self.causes[0] if self.causes else Cause(UNKNOWN, "", (), "")
        return {
            "source": self.source,
            "name": first.name,
            "cause": first.cause,
            "evidence": list(first.evidence),
            "fix": first.fix,
            "more": [vars(cause) | {"evidence": list(cause.evidence)} for cause in (*self.causes[1:], *self.others)],
        }
