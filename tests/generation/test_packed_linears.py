"""Linear layers with rounded weights against sums in double precision."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from tunesmith.generation.cpu_inference import (
    FBGEMM_BLOCK_ROWS,
    FP16WeightLinear,
    Int8Linear,
    PackedLinear,
    has_fp16_kernels,
    padded_row_counts,
    prepare_for_inference,
    sums_are_exact,
)
from tunesmith.model.hf_checkpoint import load_gpt2

needs_fbgemm = pytest.mark.skipif(not has_fp16_kernels(), reason="torch was built without FBGEMM")
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
    torch.testing.assert_close(FP16WeightLinear(weight_OI, None)(x_NI).double(), exact_NO, rtol=1e-5, atol=1e-5)
    with_bias_NO = exact_NO + bias_O.double()
    torch.testing.assert_close(FP16WeightLinear(weight_OI, bias_O)(x_NI).double(), with_bias_NO, rtol=1e-5, atol=1e-5)


@needs_fbgemm
@pytest.mark.parametrize("kind", [FP16WeightLinear, Int8Linear])
def test_a_row_does_not_depend_on_the_others(kind: Callable[..., nn.Module]) -> None:
    """To the last bit, for every number of rows up to 70."""
    layer = kind(0.02 * numbers(256, 192), numbers(256))
    x_NI = numbers(70, 192)
    together_NO = layer(x_NI)
    for n_rows in range(1, 70):
        assert torch.equal(layer(x_NI[:n_rows]), together_NO[:n_rows])


@needs_fbgemm
def test_a_row_does_not_depend_on_the_block_it_is_in() -> None:
    """Counts beyond one block of FBGEMM, whole blocks among them, give a row the same bits as a count within one."""
    layer = FP16WeightLinear(0.02 * numbers(64, 96), numbers(64))
    x_NI = numbers(3 * FBGEMM_BLOCK_ROWS, 96)
    expected_NO = torch.cat([layer(x_I[None]) for x_I in x_NI])
    for n_rows in (119, 120, 121, 122, 127, 134, 239, 240, 241, 242, 247, 359, 360):
        assert torch.equal(layer(x_NI[:n_rows]), expected_NO[:n_rows])


def test_counts_with_other_bits_are_padded() -> None:
    """Kernels of one and two rows that round differently, as FBGEMM's do with AVX2, are never asked."""

    def product(x_NI: torch.Tensor) -> torch.Tensor:
        y_NO = x_NI.sum(dim=1, keepdim=True)
        n_small = len(x_NI) % 6 if len(x_NI) % 6 < 3 else 0
        y_NO[len(x_NI) - n_small :] += 1
        return y_NO

    counts = padded_row_counts(product, 8)
    expected = [n_rows if n_rows % 6 in {0, 3, 4, 5} else n_rows // 6 * 6 + 3 for n_rows in range(121)]
    assert list(counts) == expected
    assert padded_row_counts(lambda x_NI: torch.arange(len(x_NI))[:, None], 8) == ()


def test_overflow_of_two_products_is_noticed() -> None:
    """A product that cuts sums of two neighbors off at 16 bits, as CPUs without VNNI do, is exact up to 64 only."""

    def product(x_NI: torch.Tensor, weight_IO: torch.Tensor) -> torch.Tensor:
        # inputs become unsigned by adding 128, which is subtracted from the sums again
        pairs_NPO = ((x_NI.int() + 128)[:, :, None] * weight_IO.int()[None]).unflatten(1, (-1, 2)).sum(dim=2)
        return pairs_NPO.clamp(-(2**15), 2**15 - 1).sum(dim=1) - 128 * weight_IO.int().sum(dim=0)

    def exact(x_NI: torch.Tensor, weight_IO: torch.Tensor) -> torch.Tensor:
        return x_NI.int() @ weight_IO.int()

    assert [largest for largest in (63, 64, 65, 127) if sums_are_exact(product, largest)] == [63, 64]
    assert sums_are_exact(exact, 127)


def test_integer_products_are_exact_on_this_cpu() -> None:
    """The largest inputs and weights there are: the result is right to the two roundings, whatever the CPU has."""
    weight_OI = torch.ones(8, 768) * torch.tensor([1.0, -1.0] * 4)[:, None]
    y_NO = Int8Linear(weight_OI, None)(torch.ones(3, 768))
    torch.testing.assert_close(y_NO, 768 * weight_OI[:, 0].expand(3, -1), rtol=1e-5, atol=0)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "darwin", reason="these switches are for x86 CPUs")
def test_older_cpus_keep_the_promises() -> None:
    """This file's tests and those of a sample's seed pass with the kernels of a CPU that has AVX2 and nothing newer."""
    older = {"FBGEMM_ENABLE_INSTRUCTIONS": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
    here = Path(__file__)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "not older_cpus"]
    command += [str(here), f"{here.with_name('test_engine.py')}::test_the_same_seed_alone_and_among_sixty_four"]
    done = subprocess.run(command, env={**os.environ, **older}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout


@needs_fbgemm
def test_weights_beyond_fp16_are_not_rounded(make_model_folder: Callable[..., Path]) -> None:
    """One weight of 70,000 would become infinite: the model is read in fp32 then."""
    model = load_gpt2(make_model_folder())
    with torch.no_grad():
        model.transformer.h[0].mlp.c_fc.weight[0, 0] = 70_000  # type: ignore[union-attr]
    prepare_for_inference(model, "none", may_round=True)
    kinds = {
        type(module) for module in model.modules() if isinstance(module, FP16WeightLinear | PackedLinear | nn.Linear)
    }
    assert FP16WeightLinear not in kinds


@needs_fbgemm
def test_rounded_models_say_nearly_the_same(make_model_folder: Callable[..., Path]) -> None:
    """Logits of fp16 weights lie within a few roundings of those in fp32."""
    folder = make_model_folder()
    exact, rounded = load_gpt2(folder), load_gpt2(folder)
    logits = prepare_for_inference(rounded, "none", may_round=True)
    hidden_NC = numbers(7, 32)
    with torch.no_grad():
        expected_NV = exact.logits(hidden_NC).log_softmax(-1)
        error_NV = logits(hidden_NC).log_softmax(-1) - expected_NV
    assert 0 < float(error_NV.std()) < HALF_ROUNDING * float(expected_NV.std())
