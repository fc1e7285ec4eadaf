"""What a model from scratch can become with the text and the steps that it gets.

References: Hoffmann et al. 2022, "Training Compute-Optimal Large Language Models" (about 20 tokens for each parameter;
the fit of the loss); Muennighoff et al. 2023, "Scaling Data-Constrained Language Models" (what repeated text is worth).
"""

import math
from dataclasses import dataclass

from tunesmith.messages.catalogue import say

BEST_TOKENS_PER_PARAMETER = 20
REPETITIONS_WORTH = 15.4
"""However often text is seen, it is worth at most so many times more of it (R* of Muennighoff et al.)."""
IRREDUCIBLE, PER_PARAMETER, PER_TOKEN = 1.69, (406.4, 0.34), (410.7, 0.28)
"""Nats per token: E, (A, alpha), (B, beta) of Hoffmann et al."""
LEAST_PARAMETERS, LEAST_TOKENS = 40_000_000, 1_000_000_000
"""Below, the fit was never compared with anything."""
HOPELESS_TOKENS_PER_PARAMETER = 0.05
"""Then there is so little text that the model learns it by heart."""


@dataclass(frozen=True)
class Prospect:
    """Data against size.

    Attributes:
        parameters: of the blocks and the head.
        text_tokens: different ones.
        seen_tokens: in all steps.
    """

    parameters: int
    text_tokens: int
    seen_tokens: int

    @property
    def worth_tokens(self) -> float:
        """How much new text would teach as much as what is seen, repetitions counted for less and less."""
        new = min(self.text_tokens, self.seen_tokens)
        repeated = max(self.seen_tokens / new - 1, 0.0)
        return new * (1 + REPETITIONS_WORTH * (1 - math.exp(-repeated / REPETITIONS_WORTH)))

    @property
    def tokens_per_parameter(self) -> float:
        """Of `worth_tokens`."""
        return self.worth_tokens / self.parameters

    @property
    def loss_nats_per_token(self) -> float | None:
        """What to expect; None where the fit does not reach."""
        if self.parameters < LEAST_PARAMETERS or self.worth_tokens < LEAST_TOKENS:
            return None
        (a, alpha), (b, beta) = PER_PARAMETER, PER_TOKEN
        return float(IRREDUCIBLE + a / self.parameters**alpha + b / self.worth_tokens**beta)

    @property
    def text(self) -> str:
        """In one line."""
        line = say(
            "{ratio:.2g} tokens for each of {millions:.3g}M parameters ({best} are best)",
            ratio=self.tokens_per_parameter,
            millions=self.parameters / 1e6,
            best=BEST_TOKENS_PER_PARAMETER,
        )
        loss = self.loss_nats_per_token
        if loss is None:
            return line
        return line + say("; expect about {loss:.2f} nats per token on varied text", loss=loss)

    @property
    def warning(self) -> str:
        """Why it is hopeless; empty where it is not."""
        if self.tokens_per_parameter >= HOPELESS_TOKENS_PER_PARAMETER:
            return ""
        if self.seen_tokens < self.text_tokens:
            return say(
                "{tokens:,} tokens are all that {millions:.3g}M parameters see in so few steps: that is hopeless; ask "
                "for more --epochs or --max-steps",
                tokens=self.seen_tokens,
                millions=self.parameters / 1e6,
            )
        return say(
            "{tokens:,} tokens of text cannot fill {millions:.3g}M parameters: this model will know it by heart and "
            "little else; take a smaller --shape or --width, more text, or fine-tune gpt2 instead",
            tokens=self.text_tokens,
            millions=self.parameters / 1e6,
        )


def beyond_the_hours(planned_s: float | None, max_hours: float | None) -> str:
    """What the hours do not buy; empty where they do, or where nobody knows how long the run takes."""
    if max_hours is None or planned_s is None or planned_s <= max_hours * 3600:
        return ""
    return say(
        "--max-hours {hours:g} ends it at about {share:.0%} of its steps, before the learning rate has fallen; ask for "
        "fewer --epochs or --max-steps, or go on later with --resume",
        hours=max_hours,
        share=max_hours * 3600 / planned_s,
    )
