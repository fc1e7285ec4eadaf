"""The package's own training step, evaluation, prefill and decoding on fake tensors; each case gives plain numbers.

Runs in the child process that `__main__.py` is, behind `backend.load` and `backend.pretend`.
"""

import gc
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import inductor
import numpy as np
import torch
from torch._dynamo.utils import counters
from torch._subclasses.fake_tensor import FakeTensorMode
from watch import Watch

from tunesmith.data.corpus import Split
from tunesmith.data.dataloader import Batch
from tunesmith.data.spans import TokenSpans
from tunesmith.evaluation.perplexity import evaluate_split
from tunesmith.generation.async_decode import ActiveSequence, AsyncDecoder
from tunesmith.generation.cpu_inference import prepare_for_inference
from tunesmith.generation.engine import Decoder
from tunesmith.generation.kv_cache import KVCache
from tunesmith.generation.sampling import SamplingParams
from tunesmith.model.activation_checkpointing import apply_activation_checkpointing
from tunesmith.model.attention import PackedLayout, forward_packed
from tunesmith.model.compile import apply_compile, set_forward
from tunesmith.model.gpt2 import GPT2
from tunesmith.model.gpt2_config import PROJECTIONS, GPT2Config, LoRA
from tunesmith.model.hub import preset_shape
from tunesmith.model.lora import apply_lora, freeze
from tunesmith.optim.state_format import STATE_FORMATS
from tunesmith.planning.calibration_cache import CalibrationCache
from tunesmith.planning.fit import FitRequest, choose_fit, why_unusable
from tunesmith.planning.hardware import hardware_for_gpu, with_precision
from tunesmith.planning.memory_model import Calibration, StepSpec, estimate_memory
from tunesmith.training.optimizer import make_optimizer
from tunesmith.training.train_step import train_step

DEVICE = torch.device("cuda", 0)
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
CONTEXT_TOKENS = 1024
STEPS = 3

watch = Watch()
"""One for the whole process: kernels' launches are told to it."""


@contextmanager
def on_the_device() -> Iterator[None]:
    """Tensors are fake inside, and watched."""
    with FakeTensorMode(allow_non_fake_inputs=True), watch:
        watch.forget()
        yield


def shape_of(case: dict[str, Any]) -> GPT2Config:
    """A preset, or so many layers of a width."""
    preset = preset_shape(case.get("model", ""))
    if preset is not None:
        return preset
    wide = case.get("width", 768)
    return GPT2Config(50257, CONTEXT_TOKENS, wide, case.get("layers", 4), case.get("heads", wide // 64), 4 * wide)


def batch_of(n_tokens: int, document_tokens: int) -> Batch:
    """Documents of one length, the last one shorter."""
    starts = range(0, n_tokens, document_tokens)
    ids = np.zeros(n_tokens, np.int64)
    positions = np.arange(n_tokens) % document_tokens
    return Batch(ids, positions, (*starts, n_tokens), np.arange(n_tokens), ids, CONTEXT_TOKENS)


def demand_of(case: dict[str, Any]) -> StepSpec:
    """What the planner is asked."""
    return StepSpec(
        shape_of(case),
        STATE_FORMATS[case.get("memory_mode", "fp32")],
        case.get("activation_checkpointing", "none"),
        case.get("tokens", 4096),
        case.get("micro_batches", 1),
        4 if case.get("precision") == "fp32" else 2,
        "cuda",
        lora=LoRA(8, 16.0, case.get("dropout", 0.0), PROJECTIONS) if case.get("lora") else None,
        frozen=case.get("frozen", "none"),
        dropout=case.get("dropout", 0.0) > 0,
        document_tokens=float(case.get("document_tokens", CONTEXT_TOKENS)),
        attention="efficient_varlen" if case.get("precision") == "fp32" else "flash_varlen",
    )


def model_of(case: dict[str, Any], demand: StepSpec) -> GPT2:
    """On the device, ready to be trained."""
    with DEVICE:
        model = GPT2(demand.shape, dropout=case.get("dropout", 0.0)).train()
        if demand.lora:
            apply_lora(model, demand.lora, seed=0)
    model.compute_dtype = DTYPES[case.get("precision", "bf16")]
    freeze(model, demand.frozen)  # type: ignore[arg-type]
    if case.get("compiled"):
        inductor.prepare(watch)
        torch.compiler.reset()
        counters.clear()
        apply_compile(model, fullgraph=True)
    apply_activation_checkpointing(model, demand.activation_checkpointing)
    return model


def planned(case: dict[str, Any]) -> dict[str, Any]:
    """The case with the plan that the planner makes for a GPU by itself."""
    experience, hardware = CalibrationCache({}), with_precision(hardware_for_gpu(case["gpu"], case["vram"]), "auto")
    request = FitRequest(
        demand=replace(demand_of(case), tokens=0, micro_batches=0, number_bytes=hardware.number_bytes),
        memory_mode="auto",
        fused_backward="auto",
        activation_checkpointing="auto",
        step_tokens=case["step_tokens"],
        longest_tokens=CONTEXT_TOKENS,
        mean_context_tokens=float(case.get("document_tokens", CONTEXT_TOKENS)),
        correction_of=lambda demand: experience.correction(demand, hardware),
    )
    way = choose_fit(request, hardware)
    return {
        **case,
        "memory_mode": way.demand.states.label,
        "activation_checkpointing": way.demand.activation_checkpointing,
        "tokens": way.demand.tokens,
        "micro_batches": way.demand.micro_batches,
        "workspace_bytes": way.memory.workspace,
        "budget_bytes": hardware.budget.value,
    }


def train(case: dict[str, Any]) -> dict[str, Any]:
    """The first steps: the largest peak of all of them, what the last one made wait, the plan beside it.

    Of many micro-batches two are computed: the others find what the second one found.
    """
    demand = demand_of(case)
    with on_the_device():
        model = model_of(case, demand)
        optimizer = make_optimizer(model, weight_decay=0.01, plan=demand.states, muon=bool(case.get("muon")))
        static_bytes = watch.now_bytes
        scaler = torch.amp.GradScaler("cuda", enabled=case.get("precision") == "fp16")
        batch = batch_of(demand.tokens, case.get("document_tokens", CONTEXT_TOKENS))
        batches = [batch] * min(demand.micro_batches, 2)
        sabotage = SABOTAGE.get(case.get("sabotage", ""), lambda _model: None)
        sabotage(model)
        peak_bytes, peak_at, faults = 0, ("", ""), {}
        for _ in range(case.get("steps", STEPS)):
            watch.restart()
            train_step(model, optimizer, batches, learning_rate=1e-4, max_grad_norm=1.0, scaler=scaler)
            faults.update(watch.faults)
            if watch.peak_bytes > peak_bytes:
                peak_bytes, peak_at = watch.peak_bytes, watch.peak_at
        measured = {
            "static_bytes": static_bytes,
            "peak_bytes": peak_bytes,
            "peak_at": peak_at,
            "syncs": dict(watch.syncs),
            "faults": faults,
            "launches": sum(watch.launches.values()),
            "generated_launches": sum(n for name, n in watch.launches.items() if name.startswith(inductor.PREFIX)),
            "graphs": counters["stats"]["unique_graphs"] if case.get("compiled") else 0,
            "flash_scratch_bytes": watch.flash_scratch_bytes,
            "planned_bytes": estimate_memory(demand, Calibration()).peak_bytes,
            "planned_parts": estimate_memory(demand, Calibration()).parts,
            "refused": why_unusable(demand.states, demand, str(model.compute_dtype).removeprefix("torch.")),
        }
        if case.get("evaluates"):
            del batches
            measured["evaluation"] = evaluate_beside(model, case)
        return measured


def evaluate_beside(model: GPT2, case: dict[str, Any]) -> dict[str, Any]:
    """An evaluation between two steps: the optimizer's states are there, gradients are not."""
    watch.restart()
    per_batch = min(32_768, 8 * case.get("tokens", 4096))  # as the training plan has it
    n_documents = max(per_batch // (CONTEXT_TOKENS - 1), 1)
    lengths = np.full(n_documents, CONTEXT_TOKENS - 1)
    none = np.zeros_like(lengths)
    stretches = TokenSpans(1 + np.cumsum(lengths) - lengths, lengths, none, none)
    split = Split(np.zeros(lengths.sum() + 1, np.uint16), stretches, text_bytes=1)
    evaluate_split(model, split, context_length=CONTEXT_TOKENS, tokens_per_batch=per_batch)
    return {
        "peak_bytes": watch.peak_bytes,
        "peak_at": watch.peak_at,
        "syncs": dict(watch.syncs),
        "faults": dict(watch.faults),
        "batch_tokens": per_batch,
    }


def launches_of_block(case: dict[str, Any]) -> dict[str, Any]:
    """Launches of one block, forward and backward: those of two blocks less those of one."""
    counted = []
    for layers in (1, 2):
        demand = demand_of({**case, "layers": layers})
        with on_the_device():
            model = model_of({**case, "layers": layers}, demand)
            make_optimizer(model, weight_decay=0.01, plan=demand.states)
            batch = batch_of(demand.tokens, CONTEXT_TOKENS)
            layout = PackedLayout(batch.cu_seqlens, batch.max_seqlen)
            both = []
            hidden_NC = forward_packed(model, batch.tokens, batch.positions, layout)
            both.append(dict(watch.launches))
            watch.restart()
            hidden_NC.backward(torch.empty_like(hidden_NC))
            both.append(dict(watch.launches))
            counted.append(both)
    one, two = counted
    names = ("forward", "backward")
    return {
        way: {name: n - one[at].get(name, 0) for name, n in two[at].items() if n > one[at].get(name, 0)}
        for at, way in enumerate(names)
    }


def generate(case: dict[str, Any]) -> dict[str, Any]:
    """Prompts read, then a decoding step launched, recorded and played, for so many texts."""
    rules = SamplingParams(**case["rules"])
    n_texts, dtype = case["texts"], DTYPES[case["precision"]]
    with on_the_device(), torch.no_grad():
        with DEVICE:
            model = GPT2(shape_of(case)).eval()
        model.compute_dtype = dtype
        if not case.get("masters"):
            for parameter in model.parameters():
                parameter.data = parameter.data.to(dtype)
        logits = prepare_for_inference(model, "none")
        if case.get("sabotage") == "leftover":
            logits = _counted(logits)
        cache = KVCache(model, slots=n_texts, positions=512)
        watch.restart()
        Decoder(model, logits, cache).prefill({place: [5] * 20 for place in range(n_texts)})
        prefill = {"syncs": dict(watch.syncs), "faults": dict(watch.faults)}
        prefill["scatters"] = sum(n for op, n in watch.launches.items() if op.startswith("index_put"))
        ahead = AsyncDecoder(model, logits, cache, 50256)
        ahead.begin([ActiveSequence([5] * 21, rules, 0)] * n_texts)
        watch.restart()
        ahead.launch([0.5] * n_texts)
        first = dict(watch.syncs)
        step = ahead._step
        assert step is not None
        watch.restart()
        ahead.launch([0.5] * n_texts)
        ahead.collect()
        next_one = {"syncs": dict(watch.syncs), "faults": dict(watch.faults)}
        watch.restart()
        watch.keeps_calls = True
        step._compute()
        watch.keeps_calls = False
        return {
            "prefill": prefill,
            "first_launch_syncs": first,
            "next_launch": next_one,
            "recorded": recorded_of(step, cache),
            "transient_bytes": watch.peak_bytes - watch.now_bytes,
            "launches": sum(watch.launches.values()),
        }


def recorded_of(step: Any, cache: KVCache) -> dict[str, Any]:
    """What a recorded step does, as a lint wants it."""
    kept = {it.untyped_storage()._cdata for it in (*step.state, cache.k_LBHPD, cache.v_LBHPD)}
    fresh: set[int] = set()  # made by this step, or written over before it was read
    read: set[int] = set()
    leftover = []
    for call in watch.calls:
        fresh |= call.makes
        read -= call.makes  # an address that is used again
        read |= call.reads
        overwrites = call.op.name in {"copy_", "fill_", "zero_"}
        for key in call.writes - kept - fresh:
            if overwrites and key not in read:
                fresh.add(key)
            else:
                leftover.append(f"{call.op.full_name} at {call.place}")
    return {
        "ops": sorted({call.op.full_name for call in watch.calls}),
        "syncs": dict(watch.syncs),
        "faults": dict(watch.faults),
        "random": sorted({call.op.full_name for call in watch.calls if call.op.is_random}),
        "unknown_size": sorted({call.op.full_name for call in watch.calls if call.op.has_unknown_size}),
        "written_but_not_given_back": leftover,
    }


def _counted(logits: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    """The same, with a number on the device that grows with each step and is no part of its state."""
    count = torch.zeros((), device=DEVICE)

    def counted(hidden_NC: torch.Tensor) -> torch.Tensor:
        return logits(hidden_NC) + count.add_(1)

    return counted


def _wait_for_item(model: GPT2) -> None:
    model.transformer.h[0].register_forward_hook(lambda _module, _inputs, out: out * out.sum().item())


def _fp32_in_attention(model: GPT2) -> None:
    inner = model.blocks[0].attn.inner_attention
    written = inner.forward
    set_forward(inner, lambda attend, *qkv: written(attend, *(it.float() for it in qkv)))


def _keep_twice(model: GPT2) -> None:
    kept: list[torch.Tensor] = []
    for block in model.transformer.h:
        block.register_forward_hook(lambda _module, _inputs, out: kept.append(out.float()))


SABOTAGE: dict[str, Callable[[GPT2], None]] = {
    "sync": _wait_for_item,
    "dtype": _fp32_in_attention,
    "memory": _keep_twice,
}
"""Faults put in on purpose: each has to be found."""


def run(case: dict[str, Any]) -> dict[str, Any]:
    """One case by its `kind`; an exception is a result, too."""
    gc.collect()  # what an earlier case left behind would count
    kinds = {"train": train, "launches": launches_of_block, "generate": generate}
    try:
        complete = planned(case) if "gpu" in case else case
        return {"case": complete, **kinds[case["kind"]](complete)}
    except Exception as error:  # noqa: BLE001  it is told to the test
        return {"case": case, "error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
