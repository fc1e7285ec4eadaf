"""The outcome of a run in one sentence, and in a word."""

from dataclasses import dataclass
from typing import Literal

from tunesmith.messages.catalogue import say
from tunesmith.reporting.run_record import RunRecord
from tunesmith.utils.formatting import perplexity

Mood = Literal["good", "bad", "open"]


@dataclass(frozen=True)
class Verdict:
    """What became of a run.

    Attributes:
        mood: whether it learned, did not, or is not done.
        status: in a word or two.
        sentence: for a person.
    """

    mood: Mood
    status: str
    sentence: str


def verdict_on(run: RunRecord) -> Verdict:
    """Judge a run by what it measured."""
    status = {
        "finished": say("finished"),
        "interrupted": say("interrupted"),
    }.get(run.status, say("not finished"))
    before, best = run.before, run.best
    if before is None or best is None:
        return Verdict(
            "open",
            status,
            say("There is no evaluation to judge by yet: {steps:,} steps were made.", steps=run.last_step),
        )
    if best.nats_per_token >= before.nats_per_token:
        return Verdict(
            "bad",
            status,
            say(
                "The model did not get better at this text: perplexity on text it had not seen was {before} before "
                "training and is {best} at best.",
                before=perplexity(before.perplexity),
                best=perplexity(best.perplexity),
            ),
        )
    gain = 1 - best.perplexity / before.perplexity
    if run.status == "finished":
        sentence = say(
            "The model learned your text: perplexity on text it had not seen fell from {before} to {best}, {gain:.0%} "
            "lower.",
            before=perplexity(before.perplexity),
            best=perplexity(best.perplexity),
            gain=gain,
        )
        return Verdict("good", status, sentence)
    sentence = say(
        "So far, after {steps:,} of {all:,} steps, perplexity on text it had not seen fell from {before} to {best}, "
        "{gain:.0%} lower.",
        steps=run.last_step,
        all=int(run.plan["steps"]),
        before=perplexity(before.perplexity),
        best=perplexity(best.perplexity),
        gain=gain,
    )
    return Verdict("open", status, sentence)
