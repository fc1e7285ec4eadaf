"""How many entries a tokenizer of one's own should have."""

from tunesmith.messages.catalogue import say
from tunesmith.utils.device import Decision

STEPS = ((2_000_000, 1024), (20_000_000, 4096), (200_000_000, 16_384))
"""Up to so many characters so many entries: each of them has to be seen often enough to be learned."""
LARGEST = 32_768
ENTRIES_PER_CHARACTER = 2
"""A script of thousands of characters needs one for each, and as many again for what they form."""
MULTIPLE = 128


def vocabulary_size(n_characters: int, n_distinct: int) -> Decision[int]:
    """Choose it.

    Args:
        n_characters: of the text.
        n_distinct: how many different ones are in it.
    """
    by_length = next((entries for most, entries in STEPS if n_characters <= most), LARGEST)
    by_script = 256 + ENTRIES_PER_CHARACTER * n_distinct
    if by_script > by_length:
        entries = -(-by_script // MULTIPLE) * MULTIPLE
        return Decision(entries, say("for {n_distinct:,} different characters", n_distinct=n_distinct))
    return Decision(by_length, say("for {n_characters:,} characters", n_characters=n_characters))
