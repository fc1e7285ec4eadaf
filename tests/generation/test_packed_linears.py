"""Linear layers with rounded weights against sums in double precision."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from tunesmith.generation.inference_weights import ready_for_writing
from tunesmith.generation.packed_linears import HalfLinear, Int8Linear, PackedLinear, can_hold_half
from tunesmith.model.weights import load_gpt2

needs_fbgemm = pytest.mark.skipif(not can_hold_half(), reason="torch was built without FBGEMM")
HALF_ROUNDING = 2**-11


def numbers(*shape: int) -> torch.Tensor:
    """Normal, the same every time."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@needs_fbgemm
@pytest.mark.parametrize(("inside", "outside"), [(32, 96), (768, 2304), (3072, 768), (13, 7), (64, 1)])
def test_weights_are_fp16_and_nothing_else_is_rounded(inside: int, outside: int) -> None:
    """The product equals that of the weights in fp16, summed in double precision; without a bias too."""
    weight_OI, bias_O, x_NI = 0.02 * numbers(outside, inside), numbers(outside), numbers(5, inside)
    exact_NO = x_NI.double() @ weight_OI.half().double().t()
    torch.testing.assert_close(HalfLinear(weight_OI, None)(x_NI).double(), exact_NO, rtol=1e-5, atol=1e-5)
    with_bias_NO = exact_NO + bias_O.double()
    torch.testing.assert_close(HalfLinear(weight_OI, bias_O)(x_NI).double(), with_bias_NO, rtol=1e-5, atol=1e-5)


@needs_fbgemm
@pytest.mark.parametrize("kind", [HalfLinear, Int8Linear])
def test_a_row_does_not_depend_on_the_others(kind: Callable[..., nn.Module]) -> None:
    """To the last bit, for every number of rows up to 70."""
    layer = kind(0.02 * numbers(256, 192), numbers(256))
    x_NI = numbers(70, 192)
    together_NO = layer(x_NI)
    for n_rows in range(1, 70):
        assert torch.equal(layer(x_NI[:n_rows]), together_NO[:n_rows])


@needs_fbgemm
def test_weights_beyond_fp16_are_not_rounded(make_model_folder: Callable[..., Path]) -> None:
    """One weight of 70,000 would become infinite: the model is read in fp32 then."""
    model = load_gpt2(make_model_folder())
    with torch.no_grad():
        model.transformer.h[0].mlp.c_fc.weight[0, 0] = 70_000  # type: ignore[union-attr]
    ready_for_writing(model, "none", may_round=True)
    kinds = {type(module) for module in model.modules() if isinstance(module, HalfLinear | PackedLinear | nn.Linear)}
    assert HalfLinear not in kinds


@needs_fbgemm
def test_rounded_models_say_nearly_the_same(make_model_folder: Callable[..., Path]) -> None:
    """Logits of fp16 weights lie within a few roundings of those in fp32."""
    folder = make_model_folder()
    exact, rounded = load_gpt2(folder), load_gpt2(folder)
    logits = ready_for_writing(rounded, "none", may_round=True)
    hidden_NC = numbers(7, 32)
    with torch.no_grad():
        expected_NV = exact.logits(hidden_NC).log_softmax(-1)
        error_NV = logits(hidden_NC).log_softmax(-1) - expected_NV
    assert 0 < float(error_NV.std()) < HALF_ROUNDING * float(expected_NV.std())
