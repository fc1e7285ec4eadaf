"""The model while it writes: prompts are read whole, then one token of every text at a time.

Texts stand side by side in the first places of a key-value cache. Nothing here chooses tokens or knows when a text
ends.

Shapes: N texts, V vocabulary, C channels.
"""

from collections.abc import Callable
from itertools import accumulate

import torch
from torch import Tensor

from tunesmith.generation.cache import DecodeAttention, KeyValueCache, PrefillAttention
from tunesmith.generation.unrolled import can_unroll, unrolled
from tunesmith.model.attention import PackedLayout, attention_for
from tunesmith.model.gpt2 import GPT2

TOKENS_READ_AT_ONCE = 4096


class Decoder:
    """A model with the texts it is writing.

    Args:
        model: on its device.
        logits: hidden states [N, C] to logits [N, V] in fp32; the model's own, or those of a packed head.
        cache: where the texts stand.
    """

    def __init__(self, model: GPT2, logits: Callable[[Tensor], Tensor], cache: KeyValueCache) -> None:
        self._model = model
        self._forward = unrolled(model) if can_unroll(model) else model
        self._logits = logits
        self._cache = cache

    def read(self, prompts: dict[int, list[int]]) -> Tensor:
        """Read texts from their beginning into places of the cache; logits behind each, [N, V] on the CPU."""
        places = list(prompts)
        rows = []
        while places:
            lengths = list(accumulate(len(prompts[place]) for place in places))
            n_now = max(sum(length <= TOKENS_READ_AT_ONCE for length in lengths), 1)
            rows.append(self._read([prompts[place] for place in places[:n_now]], places[:n_now]))
            places = places[n_now:]
        return rows[0] if len(rows) == 1 else torch.cat(rows)

    def _read(self, prompts: list[list[int]], places: list[int]) -> Tensor:
        layout = PackedLayout.of((0, *accumulate(map(len, prompts))))
        tokens_N = torch.tensor([token for prompt in prompts for token in prompt])
        positions_N = torch.cat([torch.arange(len(prompt)) for prompt in prompts])
        device = self._model.head_VC.device
        within = attention_for(layout, self._model)
        attend = PrefillAttention(self._cache, places, layout, within)
        hidden_NC = self._forward(tokens_N.to(device), positions_N.to(device), attend.of_layer)
        return self._logits(hidden_NC[torch.tensor(layout.offsets[1:]) - 1]).cpu()

    def step(self, tokens: list[int]) -> Tensor:
        """Read one more token of the text in each of the first places; logits behind them, [N, V] on the CPU."""
        device = self._model.head_VC.device
        positions_N = torch.tensor(self._cache.lengths[: len(tokens)]).to(device)
        attend = DecodeAttention.of_first(self._cache, len(tokens))
        hidden_NC = self._forward(torch.tensor(tokens).to(device), positions_N, attend.of_layer)
        for place in range(len(tokens)):
            self._cache.lengths[place] += 1
        return self._logits(hidden_NC).cpu()
