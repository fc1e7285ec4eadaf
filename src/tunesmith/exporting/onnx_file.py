"""An ONNX folder as optimum writes it: `model.onnx`, `config.json`, tokenizer; large weights in `model.onnx_data`."""

from pathlib import Path

import numpy as np

from tunesmith.exporting.exported import Exported, copy_settings
from tunesmith.exporting.extra import needs
from tunesmith.exporting.onnx_graph import gpt2_graph
from tunesmith.exporting.verification import Logits, Verification, verify
from tunesmith.utils.files import write_json

FILE, DATA = "model.onnx", "model.onnx_data"
LARGEST_PROTOBUF_BYTES = 1_500_000_000
"""A protobuf ends at 2 GiB."""
LARGEST_DIFFERENCE = 1e-3
"""Between logits, in nats: fp32 products in another order."""


def write_onnx(exported: Exported, folder: Path, dtype: str) -> None:
    """Write the graph with its weights, and what belongs to a model folder."""
    del dtype  # fp32 is the only one
    onnx = needs("onnx")
    model = gpt2_graph(exported.model.config, exported.state)
    onnx.checker.check_model(model)
    is_large = sum(parameter.nbytes for parameter in exported.model.parameters()) > LARGEST_PROTOBUF_BYTES
    onnx.save_model(model, folder / FILE, save_as_external_data=is_large, location=DATA if is_large else None)
    write_json(folder / "config.json", {**exported.hf_config, "architectures": ["GPT2LMHeadModel"]})
    copy_settings(exported, folder)


def verify_onnx(exported: Exported, folder: Path, dtype: str) -> Verification:
    """Run it in onnxruntime.

    Raises:
        UserError: if logits differ, or it is not installed.
    """
    del dtype
    return verify(exported, OnnxRuntime(folder / FILE), largest_difference=LARGEST_DIFFERENCE)


class OnnxRuntime:
    """One text at a time, each token behind the cache of those before.

    Args:
        path: the `.onnx` file.
    """

    def __init__(self, path: Path) -> None:
        library = needs("onnxruntime")
        self.name = f"onnxruntime {library.__version__}"
        options = library.SessionOptions()
        options.log_severity_level = 3  # errors only
        self._session = library.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._empty = {
            entry.name: np.zeros((1, entry.shape[1], 0, entry.shape[3]), np.float32)
            for entry in self._session.get_inputs()
            if entry.name.startswith("past_key_values.")
        }
        self._past: dict[str, Logits] = {}
        self._read = 0

    def encode(self, text: str) -> list[int] | None:
        """It has no tokenizer."""
        del text
        return None

    def read(self, tokens: list[int]) -> Logits:
        """The logits behind each token, [N, V]."""
        self._past, self._read = self._empty, 0
        return self._run(tokens)

    def go_on(self, token: int) -> Logits:
        """The logits behind one more, [V]."""
        logits_V: Logits = self._run([token])[0]
        return logits_V

    def _run(self, tokens: list[int]) -> Logits:
        end = self._read + len(tokens)
        inputs = {
            "input_ids": np.array([tokens], np.int64),
            "attention_mask": np.ones((1, end), np.int64),
            "position_ids": np.arange(self._read, end)[None],
        }
        names = [output.name for output in self._session.get_outputs()]
        found = dict(zip(names, self._session.run(None, {**inputs, **self._past}), strict=True))
        self._past = {name.replace("present.", "past_key_values."): found[name] for name in names[1:]}
        self._read = end
        logits_NV: Logits = found["logits"][0]
        return logits_NV
