"""How large the text of tokens is, in bytes and characters, which no tokenizer changes."""

from dataclasses import dataclass

import numpy as np

from tunesmith.data.corpus import Split
from tunesmith.data.stretches import Int64s
from tunesmith.data.tokenizer import TextTokenizer


@dataclass(frozen=True)
class TextSizes:
    """Of what is predicted in each sample; prompts and end-of-text are not counted.

    Attributes:
        text_bytes: int64 [samples], in UTF-8.
        characters: int64 [samples], Unicode code points.
    """

    text_bytes: Int64s
    characters: Int64s


def text_sizes(split: Split, tokenizer: TextTokenizer) -> TextSizes:
    """Measure every sample of a split.

    Tokens that are stretches of bytes are looked up; others are decoded, and count as the tokenizer normalised them.
    """
    stretches = split.stretches
    starts = stretches.starts + stretches.prompt_tokens.astype(np.int64)
    sizes = np.zeros((2, len(stretches)), np.int64)
    for sample, (start, end) in enumerate(zip(starts.tolist(), (stretches.ends - 1).tolist(), strict=True)):
        ids = split.tokens[start:end]
        if tokenizer.bytes_of_token is None or tokenizer.characters_of_token is None:
            text = tokenizer.decode(ids.tolist())
            sizes[:, sample] = len(text.encode()), len(text)
        else:
            sizes[:, sample] = tokenizer.bytes_of_token[ids].sum(), tokenizer.characters_of_token[ids].sum()
    return TextSizes(*sizes)
