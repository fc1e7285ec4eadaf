"""Key-value cache, and attention over it.

Shapes: B slots of the cache, P positions of a slot, H heads, D channels of a head, L layers, N tokens in the stream of
one call, M = N * H.

`PrefillAttention` reads packed prompts of any lengths in one flat stream and stores their keys and values;
`DecodeAttention` adds one token to every sequence. Both fit the model's `attend_of`.

On the CPU keys and values are kept in fp32: attention of a single query was measured three to ten times slower in
bf16. It is two batched products there, which were measured up to twice as fast as the fused kernel. A sequence does
not depend, to the last bit, on the others: positions beyond its end are masked, and their number is a multiple of what
is summed at a time, so they add nothing but zeros at the end of a sum.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tunesmith.model.attention import PackedLayout
from tunesmith.model.gpt2 import GPT2, Attend

POSITIONS_MULTIPLE = 64


class KVCache:
    """Keys and values of B sequences of at most P tokens, allocated once.

    Attributes:
        lengths: tokens in each slot; known on the host, so that nothing waits for a GPU.
    """

    def __init__(self, model: GPT2, *, slots: int, positions: int) -> None:
        config = model.config
        self.positions = _rounded_up(positions)
        shape = (config.n_layer, slots, config.n_head, self.positions, config.n_embd // config.n_head)
        device, dtype = model.head_VC.device, cache_dtype(model)
        self.k_LBHPD, self.v_LBHPD = (_zeros(shape, dtype, device) for _ in range(2))
        self.lengths = [0] * slots

    def move(self, source: int, target: int) -> None:
        """Copy one slot over another."""
        length = self.lengths[target] = self.lengths[source]
        for cached in (self.k_LBHPD, self.v_LBHPD):
            cached[:, target, :, :length] = cached[:, source, :, :length]


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """On the CPU memory that is untouched until it is used: most sequences end long before their slot is full."""
    if device.type == "cpu" and dtype == torch.float32:
        return torch.from_numpy(np.zeros(shape, np.float32))
    return torch.zeros(shape, dtype=dtype, device=device)


def cache_dtype(model: GPT2) -> torch.dtype:
    """Return the dtype of cached keys and values."""
    return torch.float32 if model.head_VC.device.type == "cpu" else model.attention_dtype


def cache_bytes(model: GPT2, positions: int) -> int:
    """Return the bytes of one slot."""
    return 2 * model.config.n_layer * model.config.n_embd * _rounded_up(positions) * cache_dtype(model).itemsize


def _rounded_up(positions: int) -> int:
    return -(-positions // POSITIONS_MULTIPLE) * POSITIONS_MULTIPLE


def copy_to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy to the device; from the host to CUDA by pinned memory, without which the host waits in any case."""
    if device.type != "cuda" or tensor.is_cuda:
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


def int64_rows_on(device: torch.device, rows: Sequence[Sequence[int]]) -> tuple[Tensor, ...]:
    """Bring rows of numbers, of any lengths, to the device in a single copy."""
    together = torch.tensor([number for row in rows for number in row], dtype=torch.int64)
    return tuple(torch.split(copy_to_device(together, device), [len(row) for row in rows]))


class PrefillAttention:
    """Causal attention inside each prompt; the prompts' keys and values are stored in the cache.

    Args:
        cache: to be filled.
        slots: of the cache, one for each of the layout's documents.
        layout: where the prompts begin in the stream.
        within_prompts: attends to them.
        destinations: int64 [N] slot and position of each token on the device; None copies prompt by prompt, which
            takes a launch for each prompt and layer.
    """

    def __init__(
        self,
        cache: KVCache,
        slots: list[int],
        layout: PackedLayout,
        within_prompts: Attend,
        destinations: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        self._cache = cache
        self._within_prompts = within_prompts
        self._spans = list(zip(slots, layout.offsets, layout.offsets[1:], strict=False))
        for slot, start, end in self._spans:
            cache.lengths[slot] = end - start
        self._destinations = destinations

    def of_layer(self, layer: int) -> Attend:
        """Return the attention of a layer."""
        return partial(self._attend, layer)

    def _attend(self, layer: int, q_NHD: Tensor, k_NHD: Tensor, v_NHD: Tensor, scale: float) -> Tensor:
        for cached_LBHPD, new_NHD in ((self._cache.k_LBHPD, k_NHD), (self._cache.v_LBHPD, v_NHD)):
            if self._destinations is not None:
                slot_N, position_N = self._destinations
                cached_LBHPD[layer, slot_N, :, position_N] = new_NHD.to(cached_LBHPD.dtype)
            else:
                for slot, start, end in self._spans:
                    cached_LBHPD[layer, slot, :, : end - start] = new_NHD[start:end].transpose(0, 1)
        return self._within_prompts(q_NHD, k_NHD, v_NHD, scale)


class DecodeAttention:
    """Attention of one new token of each of the first N sequences of the cache over its past and itself.

    Args:
        cache: contains the past, and is given the new token's keys and values.
        lengths_N: int64 on the device, tokens of each sequence so far.
        kv_bucket: positions that are read, more than any sequence's length.
        only_length: of a single sequence, where the host knows it: its keys are copied instead of written by index.
    """

    def __init__(self, cache: KVCache, lengths_N: Tensor, kv_bucket: int, *, only_length: int | None = None) -> None:
        device, dtype = cache.k_LBHPD.device, cache.k_LBHPD.dtype
        n_sequences = len(lengths_N)
        k_LNHPD, v_LNHPD = cache.k_LBHPD[:, :n_sequences], cache.v_LBHPD[:, :n_sequences]
        # views for all layers at once: made one by one they would take as long as the arithmetic of a single sequence
        self._k_of_layers, self._v_of_layers = (t[:, :, :, :kv_bucket].unbind() for t in (k_LNHPD, v_LNHPD))
        self._new_of_layers: list[tuple[Tensor, Tensor]] | None = None
        if only_length is not None:
            new = (t_LNHPD[:, 0, :, only_length].unbind() for t_LNHPD in (k_LNHPD, v_LNHPD))
            self._new_of_layers = list(zip(*new, strict=True))
        self._lengths_N = lengths_N
        self._slots_N = torch.arange(n_sequences, device=device)
        unseen_NP = torch.arange(kv_bucket, device=device) > lengths_N[:, None]
        mask_NP = torch.zeros(unseen_NP.shape, dtype=dtype, device=device).masked_fill_(unseen_NP, -torch.inf)
        self._mask_N11P = mask_NP[:, None, None]
        self._mask_M1P: Tensor | None = None
        if device.type == "cpu":
            self._mask_M1P = mask_NP.repeat_interleave(cache.k_LBHPD.shape[2], dim=0)[:, None]
            k_LMPD, v_LMPD = (t_LNHPD[:, :, :, :kv_bucket].flatten(1, 2) for t_LNHPD in (k_LNHPD, v_LNHPD))
            self._k_MDP_of_layers = k_LMPD.transpose(2, 3).unbind()
            self._v_MPD_of_layers = v_LMPD.unbind()

    @classmethod
    def of_first(cls, cache: KVCache, lengths_N: Tensor) -> "DecodeAttention":
        """Attend for the first N sequences, whose lengths the host knows too."""
        lengths = cache.lengths[: len(lengths_N)]
        only_length = lengths[0] if len(lengths) == 1 else None
        return cls(cache, lengths_N, _rounded_up(max(lengths) + 1), only_length=only_length)

    def of_layer(self, layer: int) -> Attend:
        """Return the attention of a layer."""
        return partial(self._attend, layer)

    def _attend(self, layer: int, q_NHD: Tensor, k_NHD: Tensor, v_NHD: Tensor, scale: float) -> Tensor:
        k_NHPD, v_NHPD = self._k_of_layers[layer], self._v_of_layers[layer]
        if self._new_of_layers is not None:  # a plain copy is several times faster than writing by index
            k_new_HD, v_new_HD = self._new_of_layers[layer]
            k_new_HD.copy_(k_NHD[0])
            v_new_HD.copy_(v_NHD[0])
        else:
            k_NHPD[self._slots_N, :, self._lengths_N] = k_NHD.to(k_NHPD.dtype)
            v_NHPD[self._slots_N, :, self._lengths_N] = v_NHD.to(v_NHPD.dtype)
        if self._mask_M1P is not None:
            return self._products(self._mask_M1P, layer, q_NHD, scale)
        y_NH1D = F.scaled_dot_product_attention(
            q_NHD[:, :, None].to(k_NHPD.dtype), k_NHPD, v_NHPD, attn_mask=self._mask_N11P, scale=scale
        )
        return y_NH1D[:, :, 0]

    def _products(self, mask_M1P: Tensor, layer: int, q_NHD: Tensor, scale: float) -> Tensor:
        """Attend as a product, a softmax and a product, for every head of every sequence."""
        k_MDP, v_MPD = self._k_MDP_of_layers[layer], self._v_MPD_of_layers[layer]
        q_M1D = q_NHD.to(k_MDP.dtype).reshape(len(k_MDP), 1, -1)
        scores_M1P = torch.baddbmm(mask_M1P, q_M1D, k_MDP, alpha=scale)
        return torch.bmm(scores_M1P.softmax(dim=-1), v_MPD).view(q_NHD.shape)
