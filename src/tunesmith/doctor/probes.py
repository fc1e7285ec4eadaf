"""Probes of the driver, torch, the tokenizer, the hub, and a plan, each for a process of its own.

`python -m tunesmith.doctor.probes NAME` writes the fields of the facts that belong to it, as soon as they are known:
drivers hang, libraries crash, and what was found before is not lost.
"""

import sys
import warnings
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from tunesmith.doctor.facts import DeviceFacts, GPUFacts, ProductFacts, StepFacts, TritonFacts
from tunesmith.doctor.probe_process import emit
from tunesmith.errors import UserError
from tunesmith.i18n import say

if TYPE_CHECKING:
    import torch

    from tunesmith.data.dataloader import Batch

HUB_TIMEOUT_S = 4.0
TOKENIZER_TEXT = "Lamp steady.\n\t caf\u00e9 \u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8 \U0001f525 <|endoftext|"
STEP_TEXT = "Wind from the north-west, lamp steady, three ships went by."
STEPS = 2
"""The loss of the second one shows what the first has changed."""
LEARNING_RATE = 1e-3
MATRIX_SIZE = 256
"""Enough for tensor cores, little memory."""
FP32_BYTES = 4


def main() -> None:
    """Run the named probe."""
    PROBES[sys.argv[1]](*sys.argv[2:])


def probe_driver() -> None:
    """Ask NVIDIA's driver about itself and its GPUs."""
    try:
        import pynvml
    except ImportError as error:
        emit(version="", error=f"{error} (nvidia-ml-py)", gpus=[])
        return
    try:
        pynvml.nvmlInit()
    except (pynvml.NVMLError, OSError) as error:
        emit(version="", error=str(error), gpus=[])
        return
    version = pynvml.nvmlSystemGetDriverVersion()
    emit(version=version if isinstance(version, str) else version.decode(), error="", gpus=[])
    gpus = [_gpu(pynvml, index) for index in range(pynvml.nvmlDeviceGetCount())]
    emit(gpus=[asdict(gpu) for gpu in gpus if gpu is not None])


def _gpu(nvml: Any, index: int) -> GPUFacts | None:  # noqa: ANN401  a module without types
    from tunesmith.planning.gpu_processes import query_gpu

    state = query_gpu(index)
    if state is None:
        return None
    handle = nvml.nvmlDeviceGetHandleByIndex(index)

    def query(function: Callable[..., Any], *arguments: object) -> Any:  # noqa: ANN401
        try:
            return function(handle, *arguments)
        except nvml.NVMLError:
            return None

    limit, default = query(nvml.nvmlDeviceGetEnforcedPowerLimit), query(nvml.nvmlDeviceGetPowerManagementDefaultLimit)
    return GPUFacts(
        index=index,
        name=state.name,
        capability=query(nvml.nvmlDeviceGetCudaComputeCapability),
        total_bytes=state.total_bytes,
        free_bytes=state.free_bytes,
        has_display=state.has_display,
        processes=state.neighbors,
        temperature_c=query(nvml.nvmlDeviceGetTemperature, nvml.NVML_TEMPERATURE_GPU),
        power_limit_w=limit and limit / 1000,
        default_power_limit_w=default and default / 1000,
        pcie_lanes=query(nvml.nvmlDeviceGetCurrPcieLinkWidth),
        max_pcie_lanes=query(nvml.nvmlDeviceGetMaxPcieLinkWidth),
    )


def probe_hub(model: str) -> None:
    """Ask the model hub for one small thing, by the library that will download."""
    from huggingface_hub import HfApi, constants

    emit(endpoint=constants.ENDPOINT, is_offline=constants.HF_HUB_OFFLINE)
    if constants.HF_HUB_OFFLINE:
        return
    try:
        HfApi().model_info(model, timeout=HUB_TIMEOUT_S)
    except Exception as error:  # noqa: BLE001  any error is a finding
        first_line = next(iter(str(error).splitlines()), "")
        emit(error=f"{type(error).__name__}: {first_line}")


def probe_tokenizer() -> None:
    """Encode awkward text with the packaged tokenizer and decode it."""
    try:
        from tunesmith.data.tokenizer import load_tokenizer
        from tunesmith.model.hf_config import read_hf_config
        from tunesmith.model.hub import TINY, local_folder

        folder = local_folder(TINY)
        tokenizer = load_tokenizer(folder, read_hf_config(folder))
        decoded = tokenizer.decode(tokenizer.encode([TOKENIZER_TEXT])[0])
    except Exception as error:  # noqa: BLE001  any error is a finding
        emit(tokenizer_error=f"{type(error).__name__}: {error}")
        return
    is_same = decoded == TOKENIZER_TEXT
    emit(tokenizer_error="" if is_same else say("{text!r} came back as {back!r}", text=TOKENIZER_TEXT, back=decoded))


def probe_model(name: str) -> None:
    """Plan a run of a model, as `tunesmith plan` does."""
    from tunesmith.config import PlanConfig
    from tunesmith.model.hub import folder_here
    from tunesmith.training.estimate import estimate, shape_of

    emit(name=name)
    try:
        emit(is_here=folder_here(name) is not None)
        estimated = estimate(PlanConfig(model=name))
    except (UserError, ImportError, OSError) as error:
        emit(error=error.message if isinstance(error, UserError) else f"{type(error).__name__}: {error}")
        return
    shape = shape_of(estimated.model)
    parameters = shape.matrix_parameters + shape.n_positions * shape.n_embd
    weights_bytes = parameters * FP32_BYTES
    moment_bits = estimated.plan.state_format.moment_bits if estimated.plan else 32
    emit(
        budget_bytes=estimated.hardware.budget.value,
        where=estimated.hardware.name,
        memory_bytes=estimated.plan.peak_memory_bytes if estimated.plan else None,
        refusal=estimated.refusal,
        weights_bytes=weights_bytes,
        # at its fullest: two checkpoints, the best model and its successor
        disk_bytes=4 * weights_bytes + 2 * (2 * parameters * moment_bits // 8),
    )


def probe_torch() -> None:
    """Try torch from its import to a training step, and report each stage before it begins."""
    emit(stage="import")
    import torch

    emit(version=torch.__version__, cuda=torch.version.cuda or "", is_rocm=torch.version.hip is not None)
    emit(stage="cuda")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        has_cuda = torch.cuda.is_available()
    emit(warning=" ".join(str(warning.message) for warning in caught))
    device = torch.device("cuda", 0) if has_cuda else torch.device("cpu")
    if has_cuda:
        facts = DeviceFacts(
            name=torch.cuda.get_device_name(device),
            capability=torch.cuda.get_device_capability(device),
            architectures=tuple(torch.cuda.get_arch_list()),
            has_flash_attention=torch.backends.cuda.is_flash_attention_available(),
        )
        emit(device=asdict(facts))
        emit(stage="triton")
        emit(triton=asdict(_triton()))
        emit(stage="cudnn")
        _try_cudnn(device)
    emit(stage="matmul")
    emit(products=[asdict(_product(device, dtype)) for dtype in _dtypes(device)])
    emit(stage="step")
    emit(step=asdict(_training_step(device)))
    emit(stage="")


def _triton() -> TritonFacts:
    from tunesmith.backends import probe_triton

    usable = probe_triton(0)
    return TritonFacts(usable.value, usable.reason)


def _try_cudnn(device: "torch.device") -> None:
    """A convolution needs cuDNN."""
    import torch

    try:
        emit(cudnn=torch.backends.cudnn.version())
        image, kernel = torch.ones(1, 1, 8, 8, device=device), torch.ones(1, 1, 3, 3, device=device)
        torch.nn.functional.conv2d(image, kernel).sum().item()
    except Exception as error:  # noqa: BLE001  any error is a finding
        emit(cudnn_error=str(error))


def _dtypes(device: "torch.device") -> list["torch.dtype"]:
    import torch

    from tunesmith.utils.device import NATIVE_BF16_CAPABILITY

    if device.type == "cpu":
        return [torch.float32]
    has_bf16 = torch.cuda.get_device_capability(device) >= NATIVE_BF16_CAPABILITY
    return [torch.float32, torch.bfloat16 if has_bf16 else torch.float16]


def _product(device: "torch.device", dtype: "torch.dtype") -> ProductFacts:
    import torch

    name = str(dtype).removeprefix("torch.")
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(MATRIX_SIZE, MATRIX_SIZE, generator=generator).to(dtype) for _ in range(2))
    exact = left.double() @ right.double()
    try:
        result = (left.to(device) @ right.to(device)).double().cpu()
    except Exception as error:  # noqa: BLE001  any error is a finding
        return ProductFacts(name, None, str(error))
    return ProductFacts(name, float((result - exact).norm() / exact.norm()))


def _training_step(device: "torch.device") -> StepFacts:
    """Train the packaged model on one text."""
    try:
        return _losses(device)
    except Exception as error:  # noqa: BLE001  any error is a finding
        return StepFacts(error=f"{type(error).__name__}: {error}")


def _losses(device: "torch.device") -> StepFacts:
    import torch

    from tunesmith.data.tokenizer import load_tokenizer
    from tunesmith.model.hf_checkpoint import load_gpt2
    from tunesmith.model.hf_config import read_hf_config
    from tunesmith.model.hub import TINY, local_folder
    from tunesmith.optim.state_format import STATE_FORMATS
    from tunesmith.training.optimizer import make_optimizer
    from tunesmith.training.train_step import batch_loss_sum, train_step
    from tunesmith.utils.device import resolve_dtype

    folder = local_folder(TINY)
    tokenizer = load_tokenizer(folder, read_hf_config(folder))
    batch = _one_document(tokenizer.encode([STEP_TEXT])[0], tokenizer.end_of_text_id)
    model = load_gpt2(folder)
    with torch.no_grad():
        expected = batch_loss_sum(model, batch).item() / len(batch.targets)
    model = model.to(device).train()
    has_gpu = device.type == "cuda"
    if not has_gpu:
        torch.set_num_threads(1)  # several would wait for each other on a busy machine, and there is little to compute
    # a CPU's bf16 kernels need seconds for their first call
    model.compute_dtype = resolve_dtype("auto", device).value if has_gpu else torch.float32
    optimizer = make_optimizer(model, weight_decay=0.0, plan=STATE_FORMATS["fp32"], seed=0)
    scaler = torch.amp.GradScaler(device.type, enabled=model.compute_dtype == torch.float16)
    nats = [
        train_step(model, optimizer, [batch], learning_rate=LEARNING_RATE, max_grad_norm=1.0, scaler=scaler).nats.item()
        for _ in range(STEPS)
    ]
    return StepFacts(nats[0] / len(batch.targets), nats[-1] / len(batch.targets), expected)


def _one_document(ids: list[int], end_of_text_id: int) -> "Batch":
    """A sample as in training: end-of-text before and after it."""
    import numpy as np

    from tunesmith.data.dataloader import Batch

    stream = np.array([end_of_text_id, *ids, end_of_text_id], np.int64)
    count = len(stream) - 1
    return Batch(stream[:-1], np.arange(count), (0, count), np.arange(count), stream[1:], count)


PROBES: dict[str, Callable[..., None]] = {
    "driver": probe_driver,
    "hub": probe_hub,
    "model": probe_model,
    "tokenizer": probe_tokenizer,
    "torch": probe_torch,
}

if __name__ == "__main__":
    main()
