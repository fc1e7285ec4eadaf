"""Scaling-law estimate for a model from scratch: the loss to expect from its size, its text and its steps.

References: Hoffmann et al. 2022, "Training Compute-Optimal Large Language Models" (about 20 tokens for each parameter;
the fit of the loss); Muennighoff et al. 2023, "Scaling Data-Constrained Language Models" (the value of repeated text).
"""

import math
from dataclasses import dataclass

from tunesmith.i18n import say

OPTIMAL_TOKENS_PER_PARAMETER = 20
MAX_REPETITIONS = 15.4
"""Repeated text is worth at most this many times its size (R* of Muennighoff et al.)."""
IRREDUCIBLE, PER_PARAMETER, PER_TOKEN = 1.69, (406.4, 0.34), (410.7, 0.28)
"""Nats per token: E, (A, alpha), (B, beta) of Hoffmann et al."""
MIN_PARAMETERS, MIN_TOKENS = 40_000_000, 1_000_000_000
"""Below, the fit was never compared with anything."""
MIN_TOKENS_PER_PARAMETER = 0.05
"""With less text the model memorizes it."""


@dataclass(frozen=True)
class ScalingEstimate:
    """Tokens against parameters.

    Attributes:
        parameters: of the blocks and the head.
        text_tokens: without repetitions.
        seen_tokens: in all steps.
    """

    parameters: int
    text_tokens: int
    seen_tokens: int

    @property
    def effective_tokens(self) -> float:
        """Amount of new text that is worth as much as what is seen, repetitions counted for less and less."""
        new = min(self.text_tokens, self.seen_tokens)
        repeated = max(self.seen_tokens / new - 1, 0.0)
        return new * (1 + MAX_REPETITIONS * (1 - math.exp(-repeated / MAX_REPETITIONS)))

    @property
    def tokens_per_parameter(self) -> float:
        """Of `effective_tokens`."""
        return self.effective_tokens / self.parameters

    @property
    def loss(self) -> float | None:
        """Expected loss; None where the fit was never compared with anything."""
        if self.parameters < MIN_PARAMETERS or self.effective_tokens < MIN_TOKENS:
            return None
        (a, alpha), (b, beta) = PER_PARAMETER, PER_TOKEN
        return float(IRREDUCIBLE + a / self.parameters**alpha + b / self.effective_tokens**beta)

    @property
    def text(self) -> str:
        """The estimate in one line."""
        line = say(
            "{ratio:.2g} tokens for each of {millions:.3g}M parameters ({best} is optimal)",
            ratio=self.tokens_per_parameter,
            millions=self.parameters / 1e6,
            best=OPTIMAL_TOKENS_PER_PARAMETER,
        )
        loss = self.loss
        if loss is None:
            return line
        return line + say("; expect about {loss:.2f} nats per token on varied text", loss=loss)

    @property
    def warning(self) -> str:
        """Why there is far too little text; empty where there is enough."""
        if self.tokens_per_parameter >= MIN_TOKENS_PER_PARAMETER:
            return ""
        if self.seen_tokens < self.text_tokens:
            return say(
                "{tokens:,} tokens are too few for {millions:.3g}M parameters: use more --epochs or --max-steps",
                tokens=self.seen_tokens,
                millions=self.parameters / 1e6,
            )
        return say(
            "{tokens:,} tokens of text are too few for {millions:.3g}M parameters: the model will memorize them; use "
            "a smaller --size or --n-embd, more text, or fine-tune gpt2 instead",
            tokens=self.text_tokens,
            millions=self.parameters / 1e6,
        )


def time_limit_warning(planned_s: float | None, max_hours: float | None) -> str:
    """Return a warning if --max-hours ends the run early; empty where it does not, or the duration is not known."""
    if max_hours is None or planned_s is None or planned_s <= max_hours * 3600:
        return ""
    return say(
        "--max-hours {hours:g} ends it at about {share:.0%} of its steps, before the learning rate has fallen; ask for "
        "fewer --epochs or --max-steps, or continue later with --resume",
        hours=max_hours,
        share=max_hours * 3600 / planned_s,
    )
