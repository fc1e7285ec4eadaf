"""What `explain` found, for a person."""

from tunesmith.diagnostics.run_diagnosis import Cause, Explanation
from tunesmith.interfaces.tables import aligned, printable
from tunesmith.messages.catalogue import say

LEAST_WIDTH = 60


def explanation_text(explanation: Explanation, *, width: int) -> str:
    """Causes with their evidence and fix, or that none is known."""
    width = max(width, LEAST_WIDTH)
    if not explanation.causes:
        return aligned(
            [(say("cause"), say("unknown: no symptom of the table stands in it")), (say("next"), _next())], width
        )
    blocks = [aligned(_rows(cause), width) for cause in explanation.causes]
    if explanation.others:
        seen = ", ".join(other.name for other in explanation.others)
        blocks.append(say("seen too: {names}", names=seen))
    return "\n\n".join(blocks)


def _rows(cause: Cause) -> list[tuple[str, str]]:
    evidence = [(say("seen") if position == 0 else "", printable(line)) for position, line in enumerate(cause.evidence)]
    return [(say("cause"), printable(cause.cause)), *evidence, (say("fix"), printable(cause.fix))]


def _next() -> str:
    return say("give more of the log, its first error above all; tunesmith doctor checks the machine")
