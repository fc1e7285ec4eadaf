"""Keys and values of the tokens seen so far, and attention over them.

Shapes: B texts written side by side, P positions of the cache, H heads, D channels of a head, L layers,
N tokens in the stream of one call.

The cache fits the model's `attend_of` seam twice: `PrefillAttention` reads packed prompts of any lengths in one
flat stream and leaves their keys and values behind; `DecodeAttention` adds one token to every text.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from tunesmith.model.attention import DocumentLayout
from tunesmith.model.gpt2 import Attend
from tunesmith.model.shape import GPT2Config


class KeyValueCache:
    """Room for B texts of at most P tokens, allocated once."""

    def __init__(
        self, config: GPT2Config, *, texts: int, positions: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        shape = (config.n_layer, texts, config.n_head, positions, config.n_embd // config.n_head)
        self.k_LBHPD = torch.zeros(shape, dtype=dtype, device=device)
        self.v_LBHPD = torch.zeros(shape, dtype=dtype, device=device)
        self.lengths_B = torch.zeros(texts, dtype=torch.long, device=device)


class PrefillAttention:
    """Causal attention inside each prompt; the prompts' keys and values stay in the cache.

    Args:
        cache: empty, with as many texts as the layout has documents.
        layout: where the prompts begin in the stream.
        within_prompts: attends to them.
    """

    def __init__(self, cache: KeyValueCache, layout: DocumentLayout, within_prompts: Attend) -> None:
        self._cache = cache
        self._within_prompts = within_prompts
        self._offsets = layout.offsets
        lengths = [end - start for start, end in zip(self._offsets, self._offsets[1:], strict=False)]
        cache.lengths_B.copy_(torch.tensor(lengths))

    def of_layer(self, layer: int) -> Attend:
        """What the model calls in a layer."""
        return partial(self._attend, layer)

    def _attend(self, layer: int, q_NHD: Tensor, k_NHD: Tensor, v_NHD: Tensor, scale: float) -> Tensor:
        for text, (start, end) in enumerate(zip(self._offsets, self._offsets[1:], strict=False)):
            self._cache.k_LBHPD[layer, text, :, : end - start] = k_NHD[start:end].transpose(0, 1)
            self._cache.v_LBHPD[layer, text, :, : end - start] = v_NHD[start:end].transpose(0, 1)
        return self._within_prompts(q_NHD, k_NHD, v_NHD, scale)


class DecodeAttention:
    """One new token of every text sees that text's whole past and itself (N = B)."""

    def __init__(self, cache: KeyValueCache) -> None:
        self._cache = cache
        longest = int(cache.lengths_B.max()) + 1
        positions_P = torch.arange(longest, device=cache.lengths_B.device)
        self._seen_B11P = (positions_P <= cache.lengths_B[:, None])[:, None, None]
        self._longest = longest
        self._texts_B = torch.arange(len(cache.lengths_B), device=cache.lengths_B.device)

    def of_layer(self, layer: int) -> Attend:
        """What the model calls in a layer."""
        return partial(self._attend, layer)

    def _attend(self, layer: int, q_NHD: Tensor, k_NHD: Tensor, v_NHD: Tensor, scale: float) -> Tensor:
        k_BHPD, v_BHPD = self._cache.k_LBHPD[layer], self._cache.v_LBHPD[layer]
        k_BHPD[self._texts_B, :, self._cache.lengths_B] = k_NHD.to(k_BHPD.dtype)
        v_BHPD[self._texts_B, :, self._cache.lengths_B] = v_NHD.to(v_BHPD.dtype)
        y_NH1D = F.scaled_dot_product_attention(
            q_NHD[:, :, None].to(k_BHPD.dtype),
            k_BHPD[:, :, : self._longest],
            v_BHPD[:, :, : self._longest],
            attn_mask=self._seen_B11P,
            scale=scale,
        )
        return y_NH1D[:, :, 0]
