"""Tries torch, from its import to a training step; run in a process of its own, because all of it can crash or hang.

Writes the fields of `TorchFacts`, each stage before it begins, so that it is known where it stopped.
"""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith.doctor.children import found

if TYPE_CHECKING:
    import torch

    from tunesmith.data.batches import Batch

SIZE = 256
"""Of the matrices: enough for tensor cores, nothing for the memory."""
STEPS = 2
"""The loss before the second one tells what the first has learned."""
LEARNING_RATE = 1e-3
TEXT = "Wind from the north-west, lamp steady, three ships went by."


def main() -> None:
    """All stages."""
    found(stage="import")
    import torch

    found(version=torch.__version__, cuda=torch.version.cuda or "", is_rocm=torch.version.hip is not None)
    found(stage="cuda")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        is_usable = torch.cuda.is_available()
    found(warning=" ".join(str(warning.message) for warning in said))
    device = torch.device("cuda", 0) if is_usable else torch.device("cpu")
    if is_usable:
        found(
            device={
                "name": torch.cuda.get_device_name(device),
                "capability": torch.cuda.get_device_capability(device),
                "architectures": torch.cuda.get_arch_list(),
                "has_flash_attention": torch.backends.cuda.is_flash_attention_available(),
            }
        )
        found(stage="triton")
        found(triton=_triton())
        found(stage="cudnn")
        _try_cudnn(device)
    found(stage="matmul")
    found(products=[_product(device, dtype) for dtype in _dtypes(device)])
    found(stage="step")
    found(step=_training_step(device))
    found(stage="")


def _triton() -> dict[str, object]:
    from tunesmith.backends import probe_triton

    usable = probe_triton(0)
    return {"works": usable.value, "found": usable.reason}


def _try_cudnn(device: "torch.device") -> None:
    """A convolution is what only cuDNN does."""
    import torch

    try:
        found(cudnn=torch.backends.cudnn.version())
        torch.nn.functional.conv2d(
            torch.ones(1, 1, 8, 8, device=device), torch.ones(1, 1, 3, 3, device=device)
        ).sum().item()
    except Exception as error:  # noqa: BLE001  whatever it raises is what was to be found
        found(cudnn_error=str(error))


def _dtypes(device: "torch.device") -> list["torch.dtype"]:
    import torch

    from tunesmith.utils.device import NATIVE_BF16_CAPABILITY

    if device.type == "cpu":
        return [torch.float32]
    has_bf16 = torch.cuda.get_device_capability(device) >= NATIVE_BF16_CAPABILITY
    return [torch.float32, torch.bfloat16 if has_bf16 else torch.float16]


def _product(device: "torch.device", dtype: "torch.dtype") -> dict[str, object]:
    import torch

    name = str(dtype).removeprefix("torch.")
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(SIZE, SIZE, generator=generator).to(dtype) for _ in range(2))
    exact = left.double() @ right.double()
    try:
        result = (left.to(device) @ right.to(device)).double().cpu()
    except Exception as error:  # noqa: BLE001  whatever it raises is what was to be found
        return {"dtype": name, "relative_error": None, "error": str(error)}
    return {"dtype": name, "relative_error": float((result - exact).norm() / exact.norm()), "error": ""}


def _training_step(device: "torch.device") -> dict[str, object]:
    """The packaged model learns one text; the losses are what it would report."""
    try:
        return _losses(device)
    except Exception as error:  # noqa: BLE001  whatever it raises is what was to be found
        return {"before": None, "after": None, "expected": None, "error": f"{type(error).__name__}: {error}"}


def _losses(device: "torch.device") -> dict[str, object]:
    import torch

    from tunesmith.data.tokenizer import load_tokenizer
    from tunesmith.model.hf_checkpoint import load_gpt2
    from tunesmith.model.hf_config import read_hf_config
    from tunesmith.model.hub import TINY, local_folder
    from tunesmith.optim.state_format import STATE_FORMATS
    from tunesmith.training.optimizer import make_optimizer
    from tunesmith.training.step import sum_of_batch_nats, train_step
    from tunesmith.utils.device import resolve_dtype

    folder: Path = local_folder(TINY)
    tokenizer = load_tokenizer(folder, read_hf_config(folder))
    batch = _one_document(tokenizer.encode([TEXT])[0], tokenizer.end_of_text_id)
    model = load_gpt2(folder)
    with torch.no_grad():
        expected = sum_of_batch_nats(model, batch).item() / len(batch.targets)
    model = model.to(device).train()
    on_card = device.type == "cuda"  # a CPU's bf16 kernels prepare themselves for seconds
    if not on_card:
        torch.set_num_threads(1)  # several would wait for each other on a busy machine, and there is little to do
    model.compute_dtype = resolve_dtype("auto", device).value if on_card else torch.float32
    optimizer = make_optimizer(model, weight_decay=0.0, plan=STATE_FORMATS["fp32"], seed=0)
    scaler = torch.amp.GradScaler(device.type, enabled=model.compute_dtype == torch.float16)
    nats = [
        train_step(model, optimizer, [batch], learning_rate=LEARNING_RATE, max_grad_norm=1.0, scaler=scaler).nats.item()
        for _ in range(STEPS)
    ]
    return {
        "before": nats[0] / len(batch.targets),
        "after": nats[-1] / len(batch.targets),
        "expected": expected,
        "error": "",
    }


def _one_document(ids: list[int], end_of_text_id: int) -> "Batch":
    """A sample as training sees it: end-of-text before it and behind it."""
    import numpy as np

    from tunesmith.data.batches import Batch

    stream = np.array([end_of_text_id, *ids, end_of_text_id], np.int64)
    count = len(stream) - 1
    return Batch(stream[:-1], np.arange(count), (0, count), np.arange(count), stream[1:], count)


if __name__ == "__main__":
    main()
