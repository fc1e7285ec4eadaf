"""What the model thinks of a prompt that is given: the log-probability of each of its tokens (`echo` with `logprobs`).

Shapes: N tokens of the prompt with the end-of-text before it, C channels, K rows of a chunk, V vocabulary.
"""

import numpy as np

from tunesmith.generation.request import WrittenToken
from tunesmith.generation.sampling import likeliest_tokens, logprob_of
from tunesmith.generation.text_model import TextModel
from tunesmith.model.attention import PackedLayout, forward_packed
from tunesmith.model.compile import inference_mode

ROWS_AT_A_TIME = 128
"""Of logits: 26 MB with GPT-2's vocabulary."""


def score_prompt(writer: TextModel, prompt_ids: list[int], n_likeliest: int) -> list[WrittenToken]:
    """Every token but the first, each predicted from those before it, in one forward pass.

    Args:
        writer: the model.
        prompt_ids: an end-of-text, and no more than the model reads at once.
        n_likeliest: how many of the likeliest tokens are named at each.
    """
    if len(prompt_ids) == 1:
        return []
    tokens_N = np.array(prompt_ids[:-1])
    scored = []
    with inference_mode(writer.model):
        hidden_NC = forward_packed(
            writer.model, tokens_N, np.arange(len(tokens_N)), PackedLayout.of((0, len(tokens_N)))
        )
        for start in range(0, len(tokens_N), ROWS_AT_A_TIME):
            logits_KV = writer.logits(hidden_NC[start : start + ROWS_AT_A_TIME]).cpu().numpy()
            for logits_V, token in zip(logits_KV, prompt_ids[start + 1 :], strict=False):
                likeliest = likeliest_tokens(logits_V, n_likeliest)
                scored.append(WrittenToken(token, logprob_of(logits_V, token), likeliest))
    return scored
