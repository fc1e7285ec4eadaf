"""From asked to decided, with reasons."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tunesmith.config import TrainConfig
from tunesmith.data.corpus import Corpus, Split
from tunesmith.data.spans import TokenSpans
from tunesmith.errors import UserError
from tunesmith.model.gpt2_config import GPT2Config
from tunesmith.model.hub import preset_shape
from tunesmith.planning.calibration_cache import CalibrationCache
from tunesmith.planning.hardware import detect_hardware, hardware_for_gpu
from tunesmith.planning.memory_model import Calibration, estimate_memory, evaluation_bytes
from tunesmith.training.plan import TrainPlan, _compiled, make_plan
from tunesmith.training.validation import validate_config
from tunesmith.utils.device import Decision, resolve_device, resolve_dtype

GPT2_SMALL = GPT2Config(50257, 1024, 768, 12, 12, 3072)
TINY = GPT2Config(4096, 512, 128, 6, 4, 512)
NO_EXPERIENCE = CalibrationCache({})
ASKED = TrainConfig(sources=("t.txt",), out="o", device="cpu")


def corpus(n_samples: int, tokens_each: int) -> Corpus:
    """A corpus of equal samples; a tenth of them for validation."""
    starts = 1 + tokens_each * np.arange(n_samples)
    none = np.zeros_like(starts)
    whole = TokenSpans(starts, np.full_like(starts, tokens_each), none, none)
    cut = n_samples // 10
    parts = [Split(np.zeros(1, np.uint16), whole[s], text_bytes=1) for s in (slice(cut, None), slice(cut))]
    return Corpus(Path(), {}, *parts)


def plan(n_samples: int = 2000, tokens_each: int = 20, model: GPT2Config = GPT2_SMALL, **asked: Any) -> TrainPlan:
    """A plan for a text of this size on this machine's processor."""
    hardware = detect_hardware("cpu", replace(ASKED, **asked).precision)
    return make_plan(replace(ASKED, **asked), model, corpus(n_samples, tokens_each), hardware, NO_EXPERIENCE)[0]


def test_everything_is_decided() -> None:
    """No None and no "auto" is left, and every choice has its reason."""
    decided = plan()
    values = {field.name: getattr(decided, field.name) for field in fields(TrainPlan)}
    assert all(value is not None and value != "auto" for value in values.values())
    for name in ("device", "precision", "context_length", "tokens_per_step", "steps", "learning_rate"):
        assert len(decided.reasons[name]) > 5
    assert set(decided.reasons) <= set(values)


@pytest.mark.parametrize(
    ("n_samples", "expected"), [(200, 256), (2000, 256), (20_000, 1024), (200_000, 16_384), (4_000_000, 32_768)]
)
def test_little_text_gets_small_batches(n_samples: int, expected: int) -> None:
    """The effective batch grows with the text, so that a run makes at least 600 updates where it can."""
    decided = plan(n_samples, 20)
    assert decided.tokens_per_step == expected
    assert decided.steps >= 600 or decided.tokens_per_step == 256
    computed = decided.steps_per_epoch * decided.micro_batches_per_step * decided.tokens_per_micro_batch
    assert 0.9 * computed <= decided.train_tokens <= computed
    assert decided.micro_batches_per_step * decided.tokens_per_micro_batch <= expected


def test_the_guides_rate_and_narrower_models() -> None:
    """5e-5 from GPT-2's width upwards, more below; an asked rate is taken as it is."""
    assert plan().learning_rate == 5e-5
    assert plan(model=replace(GPT2_SMALL, n_embd=1600, n_head=25)).learning_rate == 5e-5
    assert plan(model=TINY).learning_rate == pytest.approx(5e-5 * 6**1.5, rel=0.02)
    assert plan(learning_rate=0.01).learning_rate == 0.01


def test_steps_follow_epochs_or_the_limit() -> None:
    """Fractions of an epoch count, --max-steps cuts, evaluation and checkpoints follow the epochs."""
    per_epoch = plan().steps_per_epoch
    assert plan(epochs=2.5).steps == round(2.5 * per_epoch)
    assert plan(epochs=0.001).steps == 1
    limited = plan(max_steps=7)
    assert limited.steps == 7
    assert limited.reasons["steps"] == "--max-steps"
    assert limited.eval_steps == limited.save_steps == 7
    assert plan().eval_steps == per_epoch
    assert plan(eval_steps=5).save_steps == 5
    assert plan(warmup_ratio=0.5).warmup_steps == round(plan().steps / 2)


def test_compiling_pays_in_long_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short runs and machines without a compiler run as written, with the reason; what is asked is done or refused."""
    assert not plan(20_000, 200).compile
    assert not plan().constant_size
    assert "on a CPU" in plan().reasons["compile"]
    assert plan(compile="yes").compile
    assert plan(compile="yes").constant_size
    gpu = hardware_for_gpu("RTX 4070 Ti", None)
    assert not _compiled(ASKED, gpu, 60).value
    assert _compiled(ASKED, gpu, 600).value
    assert not _compiled(replace(ASKED, compile="no"), gpu, 600).value
    assert not _compiled(ASKED, replace(gpu, can_compile=Decision(False, "Triton is not installed")), 600).value
    monkeypatch.setattr("shutil.which", lambda _name: None)
    with pytest.raises(UserError, match=r"--compile yes: .* is missing"):
        plan(compile="yes")


def test_context_is_the_models_unless_asked() -> None:
    """A shorter context is taken, a longer one refused, and a micro-batch always holds one window."""
    assert plan().context_length == 1024
    assert plan(context_length=100).context_length == 100
    assert plan(tokens_each=3000, model=replace(GPT2_SMALL, n_positions=8192)).tokens_per_micro_batch >= 3000
    with pytest.raises(UserError, match="--context-length 2000 does not fit the model, which has 1024"):
        plan(context_length=2000)


def test_all_problems_are_named_at_once() -> None:
    """One error lists every impossible value with its flag."""
    wrong: dict[str, Any] = {
        "epochs": 0.0,
        "max_steps": 0,
        "learning_rate": 2.0,
        "weight_decay": -1.0,
        "adam_beta2": 1.0,
        "warmup_ratio": 1.0,
        "max_grad_norm": 0.0,
        "tokens_per_step": 0,
        "eval_steps": 0,
        "save_steps": -5,
        "dropout": 1.0,
        "val_fraction": 0.0,
        "seed": -1,
    }
    with pytest.raises(UserError) as error:
        validate_config(replace(ASKED, **wrong))
    for name, value in wrong.items():
        assert f"--{name.replace('_', '-')} {value}" in error.value.message
    for name, value in wrong.items():
        with pytest.raises(UserError):
            validate_config(replace(ASKED, **{name: value}))
    assert validate_config(ASKED) is None


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_no_numbers_that_are_none(value: float) -> None:
    """NaN and infinity are no settings."""
    for name in ("epochs", "learning_rate", "weight_decay", "warmup_ratio", "dropout", "val_fraction"):
        with pytest.raises(UserError, match=f"--{name.replace('_', '-')}"):
            validate_config(replace(ASKED, **{name: value}))


def test_precision_and_device_have_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    """bf16 where it is native, fp32 elsewhere on a CPU; by compute capability on a GPU."""
    cpu = torch.device("cpu")
    for native, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda native=native: native)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
        assert resolve_dtype("auto", cpu).value is expected
    for capability, expected in (((8, 9), torch.bfloat16), ((9, 0), torch.bfloat16), ((7, 5), torch.float16)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device, it=capability: it)
        choice = resolve_dtype("auto", torch.device("cuda"))
        assert choice.value is expected
        assert f"{capability[0]}.{capability[1]}" in choice.reason
    with pytest.raises(UserError, match="fp16 needs a CUDA device"):
        resolve_dtype("fp16", cpu)
    with pytest.raises(UserError, match="--device tpu"):
        resolve_device("tpu")
    with pytest.raises(UserError, match="--device meta is not supported"):
        resolve_device("meta")


@pytest.mark.parametrize(("model", "room"), [("gpt2", "4 GB"), ("gpt2-large", "8 GB"), ("gpt2-xl", "12 GB")])
def test_an_evaluation_fits_where_the_steps_do(model: str, room: str) -> None:
    """Beside weights and states, with as many tokens at once as there is room for."""
    hardware = hardware_for_gpu("RTX 4070 Ti", room)
    asked = replace(ASKED, device="cuda", model=model)
    decided, demand = make_plan(asked, preset_shape(model), corpus(20_000, 1000), hardware, NO_EXPERIENCE)
    memory = estimate_memory(demand, Calibration())
    assert evaluation_bytes(demand, memory, decided.tokens_per_evaluation_batch) <= hardware.budget.value
    assert decided.tokens_per_evaluation_batch >= decided.context_length
    tight = replace(hardware, budget=Decision(memory.peak_bytes, "exactly"))
    fewer, demand = make_plan(asked, preset_shape(model), corpus(20_000, 1000), tight, NO_EXPERIENCE)
    memory = estimate_memory(demand, Calibration())
    assert evaluation_bytes(demand, memory, fewer.tokens_per_evaluation_batch) <= tight.budget.value
