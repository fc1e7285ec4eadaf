"""Log-probabilities in OpenAI's form, and those of a prompt (`echo` with `logprobs`).

Shapes: N tokens of the prompt with the end-of-text before it, C channels, K rows of a chunk, V vocabulary.
"""

import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from tunesmith.data.tokenizer import BYTE_LEVEL_ALPHABET, TextTokenizer
from tunesmith.generation.loading import LoadedModel
from tunesmith.generation.sampling import token_logprob, top_logprobs
from tunesmith.generation.sequence import TokenLogprob
from tunesmith.model.attention import PackedLayout, forward_packed
from tunesmith.model.compile import inference_mode

BYTE_OF_CHARACTER = {character: byte for byte, character in BYTE_LEVEL_ALPHABET.items()}
BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")
"""How sentencepiece vocabularies write a byte."""
CHUNK_ROWS = 128
"""Rows of logits at a time: 26 MB with GPT-2's vocabulary."""


class TokenNames:
    """Tokens as OpenAI's strings: a part of a character is `bytes:` and its bytes in hexadecimal; each made once."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._tokenizer = tokenizer
        self._names: dict[int, str] = {}

    def __getitem__(self, token: int) -> str:
        if token not in self._names:
            self._names[token] = self._name(token)
        return self._names[token]

    def _name(self, token: int) -> str:
        text = self._tokenizer.decode([token])
        if "\ufffd" not in text:
            return text
        entry = self._tokenizer.entry(token)
        if byte := BYTE_PIECE.fullmatch(entry):
            return f"bytes:\\x{byte[1].lower()}"
        if not all(character in BYTE_OF_CHARACTER for character in entry):
            return text
        return "bytes:" + "".join(f"\\x{BYTE_OF_CHARACTER[character]:02x}" for character in entry)


def format_logprobs(tokens: Iterable[tuple[int, TokenLogprob | None, int]], names: TokenNames) -> dict[str, list[Any]]:
    """Return OpenAI's logprobs object.

    Args:
        tokens: id, log-probability (None for a token that is not predicted), and offset in the text in characters.
        names: of the model.
    """
    logprobs: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    for token, entry, offset in tokens:
        logprobs["tokens"].append(names[token])
        logprobs["token_logprobs"].append(entry.logprob if entry else None)
        logprobs["top_logprobs"].append({names[top]: logprob for top, logprob in entry.top} if entry else None)
        logprobs["text_offset"].append(offset)
    return logprobs


def score_prompt(loaded: LoadedModel, prompt_ids: list[int], n_top_logprobs: int) -> list[TokenLogprob]:
    """Return the log-probability of every token but the first, given those before it, in one forward pass.

    Args:
        loaded: the model.
        prompt_ids: an end-of-text first, and not more than the model's context.
        n_top_logprobs: how many of the likeliest tokens to return at each place.
    """
    if len(prompt_ids) == 1:
        return []
    tokens_N = np.array(prompt_ids[:-1])
    scores = []
    with inference_mode(loaded.model):
        layout = PackedLayout.of((0, len(tokens_N)))
        hidden_NC = forward_packed(loaded.model, tokens_N, np.arange(len(tokens_N)), layout)
        for start in range(0, len(tokens_N), CHUNK_ROWS):
            logits_KV = loaded.logits(hidden_NC[start : start + CHUNK_ROWS]).cpu().numpy()
            for logits_V, token in zip(logits_KV, prompt_ids[start + 1 :], strict=False):
                top = top_logprobs(logits_V, n_top_logprobs)
                scores.append(TokenLogprob(token, token_logprob(logits_V, token), top))
    return scores
