"""Keys and values of the tokens read so far, and attention over them.

Shapes: B texts that are written side by side, P positions of the cache, H heads, D channels of a head, L layers,
N tokens in the stream of one call, M = N * H.

The cache fits the model's `attend_of` seam twice: `PrefillAttention` reads packed prompts of any lengths in one
flat stream and leaves their keys and values behind; `DecodeAttention` adds one token to every text.

On the CPU keys and values are kept in fp32: attention of a single query was measured three to ten times slower in
bf16. It is two batched products there, which were measured up to twice as fast as the fused kernel. What a text gets
does not depend, to the last bit, on the others: positions beyond a text's end are masked, and their number is a
multiple of what is summed at a time, so they add nothing but zeros at the end of a sum.
"""

from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tunesmith.model.attention import PackedLayout
from tunesmith.model.gpt2 import GPT2, Attend

POSITIONS_AT_A_TIME = 64


class KeyValueCache:
    """Room for B texts of at most P tokens, allocated once.

    Attributes:
        positions: of each text, P.
        lengths: tokens of each text that stand in it; known on the host, so that nobody waits for a card.
    """

    def __init__(self, model: GPT2, *, texts: int, positions: int) -> None:
        config = model.config
        self.positions = _rounded_up(positions)
        shape = (config.n_layer, texts, config.n_head, self.positions, config.n_embd // config.n_head)
        device = model.head_VC.device
        dtype = cache_dtype(model)
        self.k_LBHPD, self.v_LBHPD = (_zeros(shape, dtype, device) for _ in range(2))
        self.lengths = [0] * texts

    def move(self, source: int, target: int) -> None:
        """Put a text in another one's place."""
        length = self.lengths[target] = self.lengths[source]
        for cached in (self.k_LBHPD, self.v_LBHPD):
            cached[:, target, :, :length] = cached[:, source, :, :length]


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """On the CPU memory that is not touched before it is used: most texts end long before their place does."""
    if device.type == "cpu" and dtype == torch.float32:
        return torch.from_numpy(np.zeros(shape, np.float32))
    return torch.zeros(shape, dtype=dtype, device=device)


def cache_dtype(model: GPT2) -> torch.dtype:
    """What keys and values are kept in."""
    return torch.float32 if model.head_VC.device.type == "cpu" else model.attention_dtype


def cache_bytes(model: GPT2, positions: int) -> int:
    """Of one text."""
    return 2 * model.config.n_layer * model.config.n_embd * _rounded_up(positions) * cache_dtype(model).itemsize


def _rounded_up(positions: int) -> int:
    return -(-positions // POSITIONS_AT_A_TIME) * POSITIONS_AT_A_TIME


class PrefillAttention:
    """Causal attention inside each prompt; the prompts' keys and values stay in the cache.

    Args:
        cache: to be filled.
        places: which text of the cache each of the layout's documents is.
        layout: where the prompts begin in the stream.
        within_prompts: attends to them.
    """

    def __init__(self, cache: KeyValueCache, places: list[int], layout: PackedLayout, within_prompts: Attend) -> None:
        self._cache = cache
        self._within_prompts = within_prompts
        self._stretches = list(zip(places, layout.offsets, layout.offsets[1:], strict=False))
        for place, start, end in self._stretches:
            cache.lengths[place] = end - start
        self._at: tuple[Tensor, Tensor] | None = None
        if cache.k_LBHPD.is_cuda and len(places) > 1:  # a launch for each prompt and layer would take longer
            self._at = _places_and_positions(self._stretches, cache.k_LBHPD.device)

    def of_layer(self, layer: int) -> Attend:
        """What the model calls in a layer."""
        return partial(self._attend, layer)

    def _attend(self, layer: int, q_NHD: Tensor, k_NHD: Tensor, v_NHD: Tensor, scale: float) -> Tensor:
        if self._at is not None:
            place_N, position_N = self._at
            for cached_LBHPD, new_NHD in ((self._cache.k_LBHPD, k_NHD), (self._cache.v_LBHPD, v_NHD)):
                cached_LBHPD[layer, place_N, :, position_N] = new_NHD.to(cached_LBHPD.dtype)
            return self._within_prompts(q_NHD, k_NHD, v_NHD, scale)
        for place, start, end in self._stretches:
            self._cache.k_LBHPD[layer, place, :, : end - start] = k_NHD[start:end].transpose(0, 1)
            self._cache.v_LBHPD[layer, place, :, : end - start] = v_NHD[start:end].transpose(0, 1)
        return self._within_prompts(q_NHD, k_NHD, v_NHD, scale)


def _places_and_positions(stretches: list[tuple[int, int, int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Where in the cache each token of the stream belongs: its text and its position there, int64 [N] each."""
    place_N = np.concatenate([np.full(end - start, place) for place, start, end in stretches])
    position_N = np.concatenate([np.arange(end - start) for _, start, end in stretches])
    places, positions = (torch.from_numpy(it_N).to(device, non_blocking=True) for it_N in (place_N, position_N))
    return places, positions


class DecodeAttention:
    """One new token of each of the first N texts of the cache sees that text's whole past and itself.

    Args:
        cache: holds the past, and is given the new token's keys and values.
        lengths_N: int64, tokens of each text so far, where the cache is.
        reach: positions that are looked at, more than any text's length.
        only_length: of a single text, where the host knows it: its keys are copied instead of written by index.
    """

    def __init__(self, cache: KeyValueCache, lengths_N: Tensor, reach: int, *, only_length: int | None = None) -> None:
        device, dtype = cache.k_LBHPD.device, cache.k_LBHPD.dtype
        n_texts = len(lengths_N)
        k_LNHPD, v_LNHPD = cache.k_LBHPD[:, :n_texts], cache.v_LBHPD[:, :n_texts]
        # views for all layers at once: made one by one they would take as long as the arithmetic of a single text
        self._k_of_layers, self._v_of_layers = (t_LNHPD[:, :, :, :reach].unbind() for t_LNHPD in (k_LNHPD, v_LNHPD))
        self._new_of_layers: list[tuple[Tensor, Tensor]] | None = None
        if only_length is not None:
            news = (t_LNHPD[:, 0, :, only_length].unbind() for t_LNHPD in (k_LNHPD, v_LNHPD))
            self._new_of_layers = list(zip(*news, strict=True))
        self._lengths_N = lengths_N
        self._texts_N = torch.arange(n_texts, device=device)
        unseen_NP = torch.arange(reach, device=device) > lengths_N[:, None]
        mask_NP = torch.zeros(unseen_NP.shape, dtype=dtype, device=device).masked_fill_(unseen_NP, -torch.inf)
        self._mask_N11P = mask_NP[:, None, None]
        self._mask_M1P: Tensor | None = None
        if device.type == "cpu":
            self._mask_M1P = mask_NP.repeat_interleave(cache.k_LBHPD.shape[2], dim=0)[:, None]
            k_LMPD, v_LMPD = (t_LNHPD[:, :, :, :reach].flatten(1, 2) for t_LNHPD in (k_LNHPD, v_LNHPD))
            self._k_MDP_of_layers = k_LMPD.transpose(2, 3).unbind()
            self._v_MPD_of_layers = v_LMPD.unbind()

    @classmethod
    def of_first(cls, cache: KeyValueCache, n_texts: int) -> "DecodeAttention":
        """For so many texts, by the lengths that the host knows."""
        lengths = cache.lengths[:n_texts]
        lengths_N = torch.tensor(lengths).to(cache.k_LBHPD.device, non_blocking=True)
        return cls(cache, lengths_N, _rounded_up(max(lengths) + 1), only_length=lengths[0] if n_texts == 1 else None)

    def of_layer(self, layer: int) -> Attend:
        """What the model calls in a layer."""
        return partial(self._attend, layer)

    def _attend(self, layer: int, q_NHD: Tensor, k_NHD: Tensor, v_NHD: Tensor, scale: float) -> Tensor:
        k_NHPD, v_NHPD = self._k_of_layers[layer], self._v_of_layers[layer]
        if self._new_of_layers is not None:  # a plain copy is several times faster than writing by index
            k_new_HD, v_new_HD = self._new_of_layers[layer]
            k_new_HD.copy_(k_NHD[0])
            v_new_HD.copy_(v_NHD[0])
        else:
            k_NHPD[self._texts_N, :, self._lengths_N] = k_NHD.to(k_NHPD.dtype)
            v_NHPD[self._texts_N, :, self._lengths_N] = v_NHD.to(v_NHPD.dtype)
        if self._mask_M1P is not None:
            return self._products(self._mask_M1P, layer, q_NHD, scale)
        y_NH1D = F.scaled_dot_product_attention(
            q_NHD[:, :, None].to(k_NHPD.dtype), k_NHPD, v_NHPD, attn_mask=self._mask_N11P, scale=scale
        )
        return y_NH1D[:, :, 0]

    def _products(self, mask_M1P: Tensor, layer: int, q_NHD: Tensor, scale: float) -> Tensor:
        """Attention as a product, a softmax and a product, for every head of every text."""
        k_MDP, v_MPD = self._k_MDP_of_layers[layer], self._v_MPD_of_layers[layer]
        q_M1D = q_NHD.to(k_MDP.dtype).reshape(len(k_MDP), 1, -1)
        scores_M1P = torch.baddbmm(mask_M1P, q_M1D, k_MDP, alpha=scale)
        return torch.bmm(scores_M1P.softmax(dim=-1), v_MPD).view(q_NHD.shape)
