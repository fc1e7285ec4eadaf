"""Keys and values of prompts find their places in the cache, one by one or by index as on a GPU."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tunesmith.generation.kv_cache import KVCache, PrefillAttention
from tunesmith.model.attention import PackedLayout
from tunesmith.model.hf_checkpoint import load_gpt2

LENGTHS, PLACES = (3, 1, 70, 9), [4, 0, 2, 5]
OFFSETS = (0, 3, 4, 74, 83)


def destinations(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """The slot and the position of each token."""
    slots = torch.tensor(PLACES).repeat_interleave(torch.tensor(LENGTHS))
    positions = torch.cat([torch.arange(length) for length in LENGTHS])
    return slots.to(device), positions.to(device)


@pytest.mark.usefixtures("launches")
def test_prompts_are_written_by_one_operation_on_a_gpu(
    make_model_folder: Callable[..., Path], watch: Callable[..., Any]
) -> None:
    """A scatter for the keys and one for the values of each layer, however many prompts there are."""
    model = load_gpt2(make_model_folder()).to("meta")
    cache = KVCache(model, slots=6, positions=80)
    n_layer, _, n_head, _, n_channels = cache.k_LBHPD.shape
    layout = PackedLayout.of(OFFSETS)
    attend = PrefillAttention(cache, PLACES, layout, lambda q_NHD, *_: q_NHD, destinations(torch.device("meta")))
    q_NHD = torch.empty(OFFSETS[-1], n_head, n_channels, device="meta")
    with watch(cache.k_LBHPD, cache.v_LBHPD) as watched:
        for layer in range(n_layer):
            attend.of_layer(layer)(q_NHD, q_NHD, q_NHD, 1.0)
    assert watched.names["aten.index_put_.default"] == 2 * n_layer
    assert watched.names["aten.copy_.default"] == 0


@pytest.mark.parametrize("by_index", [False, True])
def test_every_prompt_gets_its_own_keys_and_values(*, by_index: bool, make_model_folder: Callable[..., Path]) -> None:
    """Each position of each prompt, and nothing anywhere else."""
    cache = KVCache(load_gpt2(make_model_folder()), slots=6, positions=80)
    n_layer, _, n_head, positions, n_channels = cache.k_LBHPD.shape
    keys, values = torch.randn(2, n_layer, OFFSETS[-1], n_head, n_channels)
    scattered = destinations(torch.device("cpu")) if by_index else None
    attend = PrefillAttention(cache, PLACES, PackedLayout.of(OFFSETS), lambda q_NHD, *_: q_NHD, scattered)
    assert (attend._destinations is not None) == by_index
    for layer in range(n_layer):
        attend.of_layer(layer)(keys[layer], keys[layer], values[layer], 1.0)
    assert [cache.lengths[place] for place in PLACES] == list(LENGTHS)
    for cached, given in ((cache.k_LBHPD, keys), (cache.v_LBHPD, values)):
        expected = torch.zeros_like(cached)
        for place, start, length in zip(PLACES, OFFSETS, LENGTHS, strict=False):
            for position in range(length):
                expected[:, place, :, position] = given[:, start + position]
        assert torch.equal(cached, expected)
        assert positions >= max(LENGTHS)
