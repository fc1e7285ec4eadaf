"""What the terminal shows of `tokenizer extend`."""

import shlex
from typing import Any

from tunesmith.interfaces.tables import aligned, printable
from tunesmith.messages.catalogue import say

SHOWN_WORDS = 8


def extension_table(result: dict[str, Any], width: int | None = None) -> str:
    """What was added, how the fit changed, and what to do next; in a terminal of `width` cells lines are wrapped."""
    added = []
    if result["from_words"]:
        added.append(say("{count:,} for the words", count=result["from_words"]))
    if result["from_text"]:
        added.append(say("{count:,} from the text", count=result["from_text"]))
    if result["special_tokens"]:
        added.append(say("{count:,} special", count=result["special_tokens"]))
    rows = [
        (
            say("vocabulary"),
            say("{before:,} entries, now {now:,}", before=result["vocab_size_before"], now=result["vocab_size"]),
        ),
        (say("added"), ", ".join(added)),
        (say("for example"), printable("  ".join(result["examples"]))),
    ]
    if result["tokens_per_character"] is not None:
        before, now = result["tokens_per_character_before"], result["tokens_per_character"]
        rows.append(
            (
                say("fit"),
                say(
                    "{now:.2f} tokens a character, before {before:.2f}: {less:.0%} fewer tokens",
                    now=now,
                    before=before,
                    less=1 - now / before,
                ),
            )
        )
    rows.append(
        (
            say("new rows"),
            say(
                "{count:,} parameters, each row the mean of what stood for it; text without new words computes as "
                "before",
                count=result["parameters_added"],
            ),
        )
    )
    several = result["several_tokens"]
    if several:
        shown = printable(", ".join(several[:SHOWN_WORDS])) + (", ..." if len(several) > SHOWN_WORDS else "")
        rows.append(
            (
                say("still several"),
                say(
                    "{words} ({count:,}): spaces, digits and signs always part tokens", words=shown, count=len(several)
                ),
            )
        )
    rows.append((say("written to"), result["out"]))
    command = shlex.join(["tunesmith", "train", "FILE", "--model", result["out"], "--out", "my-model"])
    return f"{aligned(rows, width)}\n\n{say('the new rows have to be learned; next:')}\n  {command}"
