"""More rows for the embedding table of a checkpoint, so that its vocabulary can grow."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from tunesmith.model.gpt2 import GPT2
from tunesmith.model.weights import PADDED, gpt2_of, merged_state


def with_more_tokens(model: GPT2, pieces: Mapping[int, Sequence[int]]) -> GPT2:
    """The same model with a row for each new token: the mean of the rows of what stood for it before.

    Rows of old tokens stay as they are, to the last bit; a tied head stays tied.
    Reference: Hewitt 2021, "Initializing New Word Embeddings for Pretrained Language Models".

    Args:
        model: the old one.
        pieces: for each new id the old ids that stood for its text.
    """
    vocab_size = max(model.config.vocab_size, *(token_id + 1 for token_id in pieces))
    state = {
        name: _grown(tensor, pieces, vocab_size) if name in PADDED else tensor
        for name, tensor in merged_state(model).items()
    }
    return gpt2_of(replace(model.config, vocab_size=vocab_size), state)


def _grown(table_VC: Tensor, pieces: Mapping[int, Sequence[int]], vocab_size: int) -> Tensor:
    grown_VC = torch.zeros(vocab_size, table_VC.shape[1])
    grown_VC[: len(table_VC)] = table_VC
    for token_id, old in pieces.items():
        grown_VC[token_id] = table_VC[list(old)].mean(dim=0)
    return grown_VC
