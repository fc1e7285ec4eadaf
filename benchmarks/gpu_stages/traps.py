"""Known traps: each a question that a GPU answers with yes or no, and the evidence."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from gpu_stages.kernels import exact_attention
from gpu_stages.running import Case, Result, Setting, a_compiler, a_gpu
from gpu_stages.workloads import Trainee, batches_of, config_of, new_model, relative_error, wait
from tunesmith.errors import DoesNotFitError, UserError
from tunesmith.model import compile as compiling
from tunesmith.model.activation_checkpointing import apply_activation_checkpointing
from tunesmith.model.attention import PackedLayout, attention_for, forward_packed
from tunesmith.model.gpt2 import GPT2
from tunesmith.model.loss import fused_linear_cross_entropy, token_cross_entropy
from tunesmith.optim.state_format import STATE_FORMATS
from tunesmith.planning.calibration_cache import CalibrationCache
from tunesmith.planning.fit import FitRequest, fastest_fit
from tunesmith.planning.hardware import GIB, detect_hardware, hardware_for_gpu, hardware_from_driver
from tunesmith.planning.memory_model import StepSpec
from tunesmith.training.memory_calibration import calibrate
from tunesmith.training.nonfinite import find_nonfinite_windows
from tunesmith.utils.oom import is_out_of_memory

LAYOUTS = tuple([16] * count for count in range(1, 11))
EVALUATION_EXTRA_BYTES = GIB * 3 // 4
COARSE_NATS = 0.05


def verdict(*, passes: bool, **evidence: object) -> Result:
    """A line's content."""
    return {"status": "pass" if passes else "fail", **evidence}


def graphs() -> int:
    """Made by the compiler since it was reset."""
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])


def passes_of(
    setting: Setting, layouts: Sequence[Sequence[int]], *, checkpointing: str = "none", dtype: torch.dtype
) -> Result:
    """Forward and backward passes of a compiled model over batches of several shapes, against the uncompiled one."""
    model = new_model("tiny", setting.torch_device, dtype=dtype)
    plain = new_model("tiny", setting.torch_device, dtype=dtype)
    # many shapes are a question to the tracer, and generating code for each takes minutes
    compiling.apply_compile(model, backend="aot_eager" if len(layouts) > 2 else "inductor")
    apply_activation_checkpointing(model, checkpointing)  # type: ignore[arg-type]
    worst = 0.0
    for lengths in layouts:
        layout = PackedLayout((0, *np.cumsum(lengths).tolist()), 64)
        positions_N = np.concatenate([np.arange(length) for length in lengths])
        tokens_N = np.arange(sum(lengths), dtype=np.int64) % 400
        gradients = []
        for one in (model, plain):
            one.zero_grad(set_to_none=True)
            forward_packed(one, tokens_N, positions_N, layout).float().square().sum().backward()
            gradients.append(one.transformer.h[0].attn.c_attn.weight.grad)
        worst = max(worst, relative_error(*gradients))
    return verdict(passes=worst < 0.05, worst_gradient_error=worst, graphs=graphs())


def attention_error(model: GPT2) -> tuple[str, float]:
    """The kind of attention of a model, and its relative error against double precision, backward pass included."""
    device, config = model.head_VC.device, model.config
    layout = PackedLayout.of((0, 5, 40, 64))
    channels = config.n_embd // config.n_head
    q, k, v = (
        torch.randn(64, config.n_head, channels, device=device).to(model.attention_dtype).requires_grad_()
        for _ in range(3)
    )
    attend = attention_for(layout, model)
    y = attend(q, k, v, channels**-0.5)
    exact = exact_attention(q, k, v, layout.offsets, channels**-0.5)
    sides = [[t, *torch.autograd.grad(t.double().square().sum(), (q, k, v))] for t in (y, exact)]
    return type(attend).__name__, max(relative_error(*pair) for pair in zip(*sides, strict=True))


def forget_facts() -> None:
    """Let the package look at the machine again."""
    for module in [module for name, module in sys.modules.items() if name.startswith("tunesmith.")]:
        for function in vars(module).values():
            getattr(function, "cache_clear", int)()


def without_flash_attention(setting: Setting) -> Result:
    """C1, C2: where torch has no FlashAttention (Windows, GPUs before Ampere), 16 bits are attended some other way."""
    available = torch.backends.cuda.is_flash_attention_available
    torch.backends.cuda.is_flash_attention_available = lambda: False  # type: ignore[assignment]
    forget_facts()
    found: Result = {}
    try:
        for dtype in (torch.float16, torch.bfloat16):
            kind, error = attention_error(new_model("tiny", setting.torch_device, dtype=dtype))
            found[str(dtype)] = {"kind": kind, "relative_error": error}
    finally:
        torch.backends.cuda.is_flash_attention_available = available
        forget_facts()
    passes = all(one["kind"] != "VarlenAttention" and one["relative_error"] < 0.02 for one in found.values())
    return verdict(passes=passes, **found)


def odd_head(setting: Setting) -> Result:
    """P3: heads of 20 channels, which FlashAttention does not take."""
    kind, error = attention_error(new_model("odd heads", setting.torch_device))
    return verdict(passes=error < 0.02, kind=kind, relative_error=error)


def offload_compiled(setting: Setting) -> Result:
    """C3: activations in the host's memory, with compiled blocks: the plan of GPT-2 XL in 12 GB."""
    return passes_of(setting, [[16] * 8, [16] * 8], checkpointing="offload", dtype=torch.bfloat16)


def fp32_compiled(setting: Setting) -> Result:
    """C4: fp32 with compiled blocks, over more layouts than torch recompiles for."""
    return passes_of(setting, [[16] * 8, [8, 24] + [16] * 6, *LAYOUTS], dtype=torch.float32)


def ten_sizes_compiled(setting: Setting) -> Result:
    """C5: ten sizes of micro-batch with compiled blocks; torch's own limit is eight."""
    return passes_of(setting, LAYOUTS, dtype=torch.bfloat16)


def bad_batch_compiled(setting: Setting) -> Result:
    """C5: the search for a sample that is not finite halves batches, and must not compile each half."""
    device = setting.torch_device
    model = new_model("tiny", device)
    compiling.apply_compile(model)
    with torch.no_grad():
        model.transformer.wte.weight[7] = torch.nan
    model.zero_grad(set_to_none=True)
    before = graphs()

    def batch_of(windows_W: np.ndarray) -> object:
        chosen = batches_of("tiny", (32, 32), 32 * len(windows_W), 1)[0]
        tokens_N = chosen.tokens % 7
        tokens_N[: chosen.n_tokens : 32] = 7
        return replace(chosen, tokens=tokens_N, targets=chosen.targets % 7)

    found = list(find_nonfinite_windows(model, np.arange(8), batch_of))  # type: ignore[arg-type]
    made = graphs() - before
    # the tied head makes every gradient bad, so only the number of graphs is looked at
    return verdict(passes=made == 0, graphs=made, windows_found=len(found))


def calibration_compiled(setting: Setting) -> Result:
    """L3: calibration computes two short shapes that are never used again, and must not compile them."""
    batches = batches_of("tiny", (64, 64), 1024, 1)
    trainee = Trainee.of("tiny", setting.torch_device, batches, compiled=True)
    demand = StepSpec(config_of("tiny"), STATE_FORMATS["fp32"], "none", 1024, 1, 2, setting.torch_device.type)  # type: ignore[arg-type]
    calibrate(trainee.model, trainee.optimizer, demand)
    return verdict(passes=graphs() == 0, graphs=graphs())


def stances_of_two_threads(setting: Setting) -> Result:
    """L10: two threads that run uncompiled for a while, one ending inside the other, leave the compiler on."""
    device = setting.torch_device
    model = new_model("tiny", device)
    compiling.apply_compile(model)
    entered, may_leave = threading.Event(), threading.Event()

    def other() -> None:
        with compiling.eager_mode(model):
            entered.set()
            may_leave.wait(10)

    thread = threading.Thread(target=other)
    with compiling.eager_mode(model):
        thread.start()
        entered.wait(10)
    may_leave.set()
    thread.join(10)
    tokens_N = np.zeros(64, np.int64)
    forward_packed(model, tokens_N, np.arange(64), PackedLayout.of((0, 64))).sum().backward()
    return verdict(passes=graphs() > 0, graphs=graphs())


def fp16_with_bf16_weights(setting: Setting) -> Result:
    """C6: fp16 arithmetic with bf16 weights or gradients is refused by the plan, or works."""
    device = setting.torch_device
    evidence: dict[str, str] = {}
    for memory_mode in ("split-8bit", "bf16-8bit"):
        try:
            trainee = Trainee.of(
                "tiny", device, batches_of("tiny", (64, 64), 1024, 2), memory_mode=memory_mode, dtype=torch.float16
            )
            evidence[memory_mode] = f"works, {float(trainee.step().nats):.0f} nats"
        except (RuntimeError, TypeError, NotImplementedError) as error:
            hardware = replace(hardware_for_gpu("RTX 2080", None), precision="float16")
            demand = StepSpec(config_of("gpt2"), STATE_FORMATS[memory_mode], "none", 0, 0, 2, "cuda")  # type: ignore[index]
            request = FitRequest(demand, memory_mode, "no", "auto", 4096, 1024, 1024.0, _correction(hardware))  # type: ignore[arg-type]
            try:
                fastest_fit(request, hardware, STATE_FORMATS[memory_mode])  # type: ignore[index]
                evidence[memory_mode] = f"planned, and fails: {type(error).__name__}: {str(error)[:120]}"
            except (UserError, DoesNotFitError):
                evidence[memory_mode] = "refused"
    return verdict(passes=not any("fails" in text for text in evidence.values()), memory_mode=evidence)


def _correction(hardware: object) -> Callable[[StepSpec], object]:
    return lambda demand: CalibrationCache({}).correction(demand, hardware)  # type: ignore[arg-type]


def another_gpu(_setting: Setting) -> Result:
    """C7: a training step on the second GPU, whose kernels and events must go there."""
    trainee = Trainee.of(
        "tiny", torch.device("cuda", 1), batches_of("tiny", (64, 64), 1024, 2), memory_mode="bf16-8bit"
    )
    nats = float(trainee.step().nats)
    return verdict(passes=bool(np.isfinite(nats)), nats=nats)


def two_gpus(setting: Setting) -> str:
    """For `Case.needs`."""
    return "" if setting.is_gpu and torch.cuda.device_count() > 1 else "needs two GPUs"


NO_COMPILER = """
import torch
from gpu_stages.workloads import Trainee, batches_of
for memory_mode in ("fp32", "bf16-8bit"):
    batches = batches_of("tiny", (64, 64), 1024, 2)
    trainee = Trainee.of("tiny", torch.device("{device}"), batches, memory_mode=memory_mode)
    assert torch.isfinite(trainee.step().nats), memory_mode
print("trained")
"""


def no_c_compiler(setting: Setting) -> Result:
    """C8: a machine with neither a C compiler nor anything that Triton has built before trains all the same."""
    here = Path(__file__).parents[1]
    environment = {
        **{name: value for name, value in os.environ.items() if name not in {"CC", "CXX"}},
        "PATH": "",
        "TRITON_CACHE_DIR": str(setting.folder / "triton-without-a-compiler"),
        "PYTHONPATH": os.pathsep.join([str(here), *sys.path]),
    }
    program = [sys.executable, "-c", NO_COMPILER.format(device=setting.device)]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=60, check=False)
    return verdict(passes="trained" in done.stdout, exit_code=done.returncode, error=done.stderr[-300:])


def evaluation_bytes(setting: Setting) -> Result:
    """C9: what evaluation holds beside the model is small enough to fit beside any plan."""
    device = setting.torch_device
    model = new_model("gpt2", device)
    hidden_NC = torch.randn(32_768, 768, device=device, dtype=torch.bfloat16)
    targets_N = torch.zeros(32_768, dtype=torch.int64, device=device)
    wait(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    token_cross_entropy(hidden_NC, model.head_VC, targets_N, model.config.vocab_size)
    extra = torch.cuda.max_memory_allocated(device) - before
    return verdict(passes=extra <= EVALUATION_EXTRA_BYTES, extra_bytes=extra, allowed_bytes=EVALUATION_EXTRA_BYTES)


def budget_after_a_run(_setting: Setting) -> Result:
    """C10: memory that this process has cached does not count as taken when the next run is planned."""
    first = detect_hardware("cuda", "auto").budget.value
    held = [torch.empty(GIB, dtype=torch.uint8, device="cuda") for _ in range(8)]
    del held
    again = detect_hardware("cuda", "auto").budget.value
    return verdict(passes=abs(again - first) < GIB // 2, first_bytes=first, after_8_gib_bytes=again)


def deterministic_training(setting: Setting) -> Result:
    """C11: with deterministic algorithms, two runs of three steps end with the same bits."""
    device = setting.torch_device
    evidence: dict[str, bool] = {}
    for name, deterministic in (("as it is", False), ("deterministic", True)):
        torch.use_deterministic_algorithms(deterministic)
        try:
            ends = []
            for _ in range(2):
                lengths, tokens = ((20, 900), 4096) if setting.is_gpu else ((20, 100), 256)
                trainee = Trainee.of("tiny", device, batches_of("tiny", lengths, tokens, 2), memory_mode="bf16-8bit")
                for _ in range(3):
                    trainee.step()
                ends.append([parameter.detach().clone() for parameter in trainee.model.parameters()])
            evidence[name] = all(torch.equal(a, b) for a, b in zip(*ends, strict=True))
        finally:
            torch.use_deterministic_algorithms(False)
    return verdict(passes=evidence["deterministic"], same_bits=evidence)


def coarse_logits(setting: Setting) -> Result:
    """C12: logits around -100, as GPT-2's are, keep their digits in bf16: in generation, evaluation and the loss."""
    device = setting.torch_device
    model = new_model("tiny", device)
    with torch.no_grad():
        direction_C = torch.nn.functional.normalize(torch.randn(64, device=device), dim=0)
        model.head_VC.copy_(torch.randn_like(model.head_VC) * 0.1 - 12.5 * direction_C)
        hidden_NC = (torch.randn(128, 64, device=device) + 8 * direction_C).to(torch.bfloat16)
    targets_N = torch.randint(0, 500, (128,), device=device)
    exact_NV = hidden_NC.double() @ model.head_VC.detach()[:500].double().t()
    exact_N = -exact_NV.log_softmax(-1).gather(1, targets_N[:, None])[:, 0]
    with torch.no_grad():
        logits_NV = model.logits(hidden_NC).double()
    generation_N = -logits_NV.log_softmax(-1).gather(1, targets_N[:, None])[:, 0]
    evaluation_N = token_cross_entropy(hidden_NC, model.head_VC, targets_N, 500)
    training = float(fused_linear_cross_entropy(hidden_NC, model.head_VC, targets_N, 500).detach()) / 128
    errors = {
        "generation": float((generation_N - exact_N).abs().mean()),
        "evaluation": float((evaluation_N - exact_N).abs().mean()),
        "training, mean": abs(training - float(exact_N.mean())),
    }
    return verdict(passes=max(errors.values()) < COARSE_NATS, mean_logit=float(exact_NV.mean()), errors_in_nats=errors)


def fp16_head_gradient(setting: Setting) -> Result:
    """L6: one improbable token, thousands of times in a chunk: the head's gradient in fp16 stays finite."""
    device = setting.torch_device
    hidden_NC = torch.full((4096, 64), 30.0, device=device, dtype=torch.float16)
    head_VC = torch.zeros(512, 64, device=device)
    head_VC[7] = -1.0
    head_VC.requires_grad_()
    targets_N = torch.full((4096,), 7, dtype=torch.int64, device=device)
    fused_linear_cross_entropy(hidden_NC, head_VC, targets_N, 500).div(4096).backward()
    assert head_VC.grad is not None
    return verdict(passes=bool(head_VC.grad.isfinite().all()), largest=float(head_VC.grad.abs().max()))


def driver_without_devices(_setting: Setting) -> Result:
    """L7: a plan without torch does not speak of a GPU that CUDA_VISIBLE_DEVICES hides."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    found = hardware_from_driver("auto")
    return verdict(passes=found is None, found=found.name if found else None)


def full_gpu_signs(_setting: Setting) -> Result:
    """P4: the usual faces of a full GPU are known as such."""
    signs = ("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling cublasCreate(handle)", "CUDA error: out of memory")
    unknown = [sign for sign in signs if not is_out_of_memory(RuntimeError(sign))]
    return verdict(passes=not unknown, unknown=unknown)


TRAPS = (
    Case("C6 fp16 with bf16 weights", fp16_with_bf16_weights, a_gpu),
    Case("C7 second GPU", another_gpu, two_gpus),
    Case("C9 bytes of evaluation", evaluation_bytes, a_gpu),
    Case("C10 budget after a run", budget_after_a_run, a_gpu),
    Case("C11 deterministic training", deterministic_training),
    Case("C12 logits around -100", coarse_logits, a_gpu),
    Case("L6 gradient of the head in fp16", fp16_head_gradient),
    Case("P3 heads of 20 channels", odd_head),
    Case("P4 signs of a full GPU", full_gpu_signs),
    Case("C3 offload, compiled", offload_compiled, a_compiler),
    Case("C4 fp32, compiled", fp32_compiled, a_gpu),
    Case("C5 ten sizes, compiled", ten_sizes_compiled, a_gpu),
    Case("C5 search for a bad sample, compiled", bad_batch_compiled, a_gpu),
    Case("L3 calibration, compiled", calibration_compiled, a_gpu),
    Case("L10 two threads uncompiled", stances_of_two_threads, a_compiler),
    Case("C1 C2 no FlashAttention", without_flash_attention, a_gpu),
    Case("L7 hidden GPU", driver_without_devices, a_gpu),
    Case("C8 no C compiler", no_c_compiler, a_gpu),
)
"""Those that only the code itself can answer are left to the tests; L1 has a stage, L4 and L9 show in the plans."""
