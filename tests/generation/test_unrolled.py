"""The forward pass as one loop against the model itself."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tunesmith.generation.cpu_inference import Quantize, can_unroll, prepare_for_inference, unrolled
from tunesmith.model.attention import PackedLayout, attention_for
from tunesmith.model.hf_checkpoint import load_gpt2

LAYOUT = PackedLayout.of((0, 1, 10, 19, 60))


@pytest.mark.parametrize("quantize", ["none", "int8"])
@pytest.mark.parametrize("may_round", [True, False])
@pytest.mark.parametrize(
    "switches",
    [{}, {"activation_function": "relu"}, {"scale_attn_by_inverse_layer_idx": True, "reorder_and_upcast_attn": True}],
)
def test_the_same_numbers_as_the_model(
    quantize: Quantize,
    may_round: bool,  # noqa: FBT001  parametrized
    switches: dict[str, Any],
    make_model_folder: Callable[..., Path],
) -> None:
    """To the last bit, for documents of several lengths and for one token."""
    model = load_gpt2(make_model_folder(n_layer=3, **switches))
    prepare_for_inference(model, quantize, may_round=may_round)
    assert can_unroll(model)
    random = torch.Generator().manual_seed(1)
    for layout in (LAYOUT, PackedLayout.of((0, 1))):
        n_tokens = layout.offsets[-1]
        tokens_N, positions_N = (torch.randint(0, high, (n_tokens,), generator=random) for high in (300, 64))
        attend = attention_for(layout, model)
        with torch.no_grad():
            unrolled_NC, hidden_NC = (
                compute(tokens_N, positions_N, lambda _layer, attend=attend: attend)
                for compute in (unrolled(model), model)
            )
        assert torch.equal(unrolled_NC, hidden_NC)


def test_only_what_is_prepared_is_unrolled(make_model_folder: Callable[..., Path]) -> None:
    """A model in training may have adapters, parts elsewhere, or another dtype: it is computed as it is."""
    model = load_gpt2(make_model_folder())
    assert not can_unroll(model)
    prepare_for_inference(model, "none")
    assert can_unroll(model)
    model.compute_dtype = torch.bfloat16
    assert not can_unroll(model)
