"""Short texts by the model that learns, the same beginnings and the same chance at every evaluation."""

from dataclasses import dataclass
from pathlib import Path

from tunesmith.config import GenerateConfig
from tunesmith.data.tokenizer import TextTokenizer
from tunesmith.generation.sampling import SamplingRules
from tunesmith.generation.write_texts import GeneratedText, write_texts
from tunesmith.model.gpt2 import GPT2
from tunesmith.model.hf_checkpoint import from_hf_state_dict, load_gpt2, model_from_state_dict
from tunesmith.training.snapshot import ModelCopy
from tunesmith.utils.device import allow_nondeterminism

SAMPLE_TOKENS = 64
"""Longest text of the samples."""
SAMPLE_RULES = SamplingRules(
    temperature=GenerateConfig.temperature[0], top_k=GenerateConfig.top_k, top_p=GenerateConfig.top_p
)


@dataclass(frozen=True)
class Samples:
    """Which texts.

    Attributes:
        prompts: continued before, at every evaluation, and after.
        tokenizer: the model's own.
        seed: of the first text; those of the others count on.
    """

    prompts: list[str]
    tokenizer: TextTokenizer
    seed: int

    def by(self, model: GPT2) -> list[GeneratedText]:
        """Let a whole model write."""
        seeds = [self.seed + number for number in range(len(self.prompts))]
        with allow_nondeterminism():  # nothing of the run depends on its samples
            return write_texts(
                model, self.tokenizer, self.prompts, seeds=seeds, rules=SAMPLE_RULES, max_new_tokens=SAMPLE_TOKENS
            )


def whole(model: GPT2, copied: ModelCopy | None, published: Path) -> GPT2:
    """A model that several processes hold in parts, in one piece on this one's device.

    Args:
        model: this process's part.
        copied: what it is now.
        published: the folder of the best one, which is taken where there is no copy.
    """
    one = (
        load_gpt2(published)
        if copied is None
        else model_from_state_dict(model.config, from_hf_state_dict(copied.weights))
    )
    one = one.to(model.head_VC.device)
    one.compute_dtype = model.compute_dtype
    return one
