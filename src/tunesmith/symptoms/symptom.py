"""What a row of the table of symptoms is."""

from dataclasses import dataclass
from enum import IntEnum


class Says(IntEnum):
    """How much a message tells, the least first; of several in one log the one that tells most is the cause."""

    HARMLESS = 0
    """A warning that needs nothing."""
    SOMETHING = 1
    """A general ending that many causes have."""
    CAUSE = 2
    """One cause."""
    EXACTLY = 3
    """One cause, also where other messages follow from it."""


@dataclass(frozen=True)
class Symptom:
    """A message that people meet, with its cause and what mends it.

    In the regular expressions case does not count, a space is any white space, and ' is any quotation mark.

    Attributes:
        name: for tables and tests.
        patterns: regular expressions, any of which is the message.
        cause: in a sentence, a text of the catalogue.
        fix: what to do, with the command where there is one; a text of the catalogue.
        examples: messages as they were met in the field.
        says: how much it tells.
        surely: further patterns, which tell it exactly.
        perhaps: further patterns, which tell something only.
    """

    name: str
    patterns: tuple[str, ...]
    cause: str
    fix: str
    examples: tuple[str, ...]
    says: Says = Says.CAUSE
    surely: tuple[str, ...] = ()
    perhaps: tuple[str, ...] = ()

    def told(self) -> tuple[tuple[Says, tuple[str, ...]], ...]:
        """Its patterns by how much they tell."""
        groups = ((self.says, self.patterns), (Says.EXACTLY, self.surely), (Says.SOMETHING, self.perhaps))
        return tuple((says, patterns) for says, patterns in groups if patterns)
