"""Packed documents through the model: what training and evaluation share.

Shapes: N tokens in the stream, C channels.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tunesmith.model.attention import DocumentLayout, attention_over
from tunesmith.model.compiled import uncompiled
from tunesmith.model.gpt2 import GPT2


def hidden_states(
    model: GPT2,
    tokens_N: npt.NDArray[np.int64],
    positions_N: npt.NDArray[np.int64],
    layout: DocumentLayout,
    *,
    call: Callable[..., Tensor] | None = None,
) -> Tensor:
    """Hidden states of documents that stand side by side, [N, C] on the model's device.

    Args:
        model: on its device.
        tokens_N: int64 ids.
        positions_N: int64, from 0 in each document.
        layout: where documents begin and end.
        call: what computes, where that is wrapped around the model.
    """
    attend = attention_over(layout, model)
    compute = model if call is None else call
    hidden_NC: Tensor = compute(on_device_of(model, tokens_N), on_device_of(model, positions_N), lambda _layer: attend)
    return hidden_NC


def rows_of(hidden_NC: Tensor, rows_M: npt.NDArray[np.int64]) -> Tensor:
    """The hidden states behind which something is predicted, [M, C]; all of them where nothing is left out."""
    if len(rows_M) == len(hidden_NC):
        return hidden_NC
    return hidden_NC[_to(hidden_NC.device, rows_M)]


def on_device_of(model: GPT2, values_N: npt.NDArray[np.int64]) -> Tensor:
    """An int64 array where the model is; a card fetches it without making anybody wait."""
    return _to(model.head_VC.device, values_N)


def _to(device: torch.device, values_N: npt.NDArray[np.int64]) -> Tensor:
    """From pinned memory, without which a GPU's copy makes the host wait whatever it is asked."""
    tensor_N = torch.from_numpy(values_N)
    return tensor_N.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor_N


@contextmanager
def inference(model: GPT2) -> Iterator[None]:
    """No dropout, no gradients and nothing compiled inside; afterwards the model's mode is what it was.

    Batches have other shapes here, and each would be compiled anew.
    """
    was_training = model.training
    if was_training:  # going through all modules takes longer than some of the work
        model.eval()
    try:
        with torch.no_grad(), uncompiled(model):
            yield
    finally:
        if was_training:
            model.train()
