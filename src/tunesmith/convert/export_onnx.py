"""GPT-2 as an ONNX graph with a key-value cache, node by node.

Shapes: B texts, S new tokens, P tokens read before, T = P + S, C channels, H heads, D channels of a head, V vocabulary.

Inputs and outputs have the names that optimum, transformers.js and onnxruntime-genai use: `input_ids` [B, S],
`attention_mask` [B, T], `position_ids` [B, S], `past_key_values.N.key` and `.value` [B, H, P, D]; `logits` [B, S, V],
`present.N.key` and `.value` [B, H, T, D]. With P = 0 it reads a prompt.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from tunesmith.convert.exported_model import Exported, copy_settings, needs
from tunesmith.convert.verify import Logits, Verification, verify
from tunesmith.model.gpt2_config import GPT2Config
from tunesmith.utils.files import write_json

OPSET = 20
"""The first with Gelu; onnxruntime reads it since 1.17."""


def gpt2_graph(config: GPT2Config, state: dict[str, Tensor]) -> Any:  # noqa: ANN401  onnx ships no full types
    """The model as an `onnx.ModelProto`.

    Args:
        config: its shape and switches.
        state: its weights, matrices as [out, in].
    """
    return _Graph(config, state).model()


class _Graph:
    """Nodes as they are added; each method returns the name of what it computes."""

    def __init__(self, config: GPT2Config, state: dict[str, Tensor]) -> None:
        self._onnx = needs("onnx")
        self._config = config
        self._state = state
        self._nodes: list[Any] = []
        self._weights: dict[str, Any] = {}

    def model(self) -> Any:  # noqa: ANN401  as above
        helper, kinds, config = self._onnx.helper, self._onnx.TensorProto, self._config
        mask_B1ST = self._mask()
        token_BSC = self._add("Gather", self._table("transformer.wte.weight"), "input_ids")
        position_BSC = self._add("Gather", self._table("transformer.wpe.weight"), "position_ids")
        x_BSC = self._add("Add", token_BSC, position_BSC)
        for layer in range(config.n_layer):
            x_BSC = self._block(x_BSC, mask_B1ST, layer)
        self._head(self._norm(x_BSC, "transformer.ln_f"))
        heads, channels = config.n_head, config.n_embd // config.n_head
        inputs = [("input_ids", ["B", "S"]), ("attention_mask", ["B", "T"]), ("position_ids", ["B", "S"])]
        caches = [f"{layer}.{part}" for layer in range(config.n_layer) for part in ("key", "value")]
        return helper.make_model(
            helper.make_graph(
                self._nodes,
                "gpt2",
                [helper.make_tensor_value_info(name, kinds.INT64, shape) for name, shape in inputs]
                + [
                    helper.make_tensor_value_info(f"past_key_values.{name}", kinds.FLOAT, ["B", heads, "P", channels])
                    for name in caches
                ],
                [helper.make_tensor_value_info("logits", kinds.FLOAT, ["B", "S", config.vocab_size])]
                + [
                    helper.make_tensor_value_info(f"present.{name}", kinds.FLOAT, ["B", heads, "T", channels])
                    for name in caches
                ],
                list(self._weights.values()),
            ),
            producer_name="tunesmith",
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=10,
        )

    def _mask(self) -> str:
        """0 where a token may look, the smallest number elsewhere: behind itself, and at padding; [B, 1, S, T]."""
        new = self._size_of("input_ids", 1)
        all_tokens = self._size_of("attention_mask", 1)
        keys_T = self._add("Range", self._int(0), all_tokens, self._int(1))
        queries_S = self._add("Range", self._add("Sub", all_tokens, new), all_tokens, self._int(1))
        queries_S1 = self._add("Unsqueeze", queries_S, self._ints([1]))
        seen_ST = self._add("LessOrEqual", keys_T, queries_S1)
        real_B11T = self._add("Unsqueeze", "attention_mask", self._ints([1, 2]))
        is_real_B11T = self._add("Cast", real_B11T, to=self._onnx.TensorProto.BOOL)
        allowed_B1ST = self._add("And", seen_ST, is_real_B11T)
        return self._add("Where", allowed_B1ST, self._float(0.0), self._float(float(np.finfo(np.float32).min)))

    def _block(self, x_BSC: str, mask_B1ST: str, layer: int) -> str:
        name = f"transformer.h.{layer}"
        x_BSC = self._add("Add", x_BSC, self._attention(self._norm(x_BSC, f"{name}.ln_1"), mask_B1ST, layer))
        wide = self._activation(self._linear(self._norm(x_BSC, f"{name}.ln_2"), f"{name}.mlp.c_fc"))
        return self._add("Add", x_BSC, self._linear(wide, f"{name}.mlp.c_proj"))

    def _attention(self, x_BSC: str, mask_B1ST: str, layer: int) -> str:
        config = self._config
        qkv = self._linear(x_BSC, f"transformer.h.{layer}.attn.c_attn")
        q, k, v = self._add_many("Split", 3, qkv, axis=-1, num_outputs=3)
        q_BHSD, k_BHSD, v_BHSD = (self._heads(part) for part in (q, k, v))
        k_BHTD = self._with_past(k_BHSD, f"{layer}.key")
        v_BHTD = self._with_past(v_BHSD, f"{layer}.value")
        k_BHDT = self._add("Transpose", k_BHTD, perm=[0, 1, 3, 2])
        scaled_BHSD = self._add("Mul", q_BHSD, self._float(config.attention_scale(layer)))
        scores_BHST = self._add("Add", self._add("MatMul", scaled_BHSD, k_BHDT), mask_B1ST)
        y_BHSD = self._add("MatMul", self._add("Softmax", scores_BHST, axis=-1), v_BHTD)
        y_BSHD = self._add("Transpose", y_BHSD, perm=[0, 2, 1, 3])
        y_BSC = self._add("Reshape", y_BSHD, self._ints([0, 0, config.n_embd]))
        return self._linear(y_BSC, f"transformer.h.{layer}.attn.c_proj")

    def _heads(self, x_BSC: str) -> str:
        n_head = self._config.n_head
        x_BSHD = self._add("Reshape", x_BSC, self._ints([0, 0, n_head, self._config.n_embd // n_head]))
        return self._add("Transpose", x_BSHD, perm=[0, 2, 1, 3])

    def _with_past(self, new_BHSD: str, name: str) -> str:
        present = f"present.{name}"
        self._nodes.append(
            self._onnx.helper.make_node("Concat", [f"past_key_values.{name}", new_BHSD], [present], axis=2)
        )
        return present

    def _head(self, hidden_BSC: str) -> None:
        """Logits by a product that takes the embedding table as it lies, so that it is in the file once."""
        config = self._config
        name = "transformer.wte.weight" if config.tie_word_embeddings else "lm_head.weight"
        rows_NC = self._add("Reshape", hidden_BSC, self._ints([-1, config.n_embd]))
        logits_NV = self._add("Gemm", rows_NC, self._table(name), transB=1)
        shape_BS = self._add("Shape", "input_ids")
        shape_BSV = self._add("Concat", shape_BS, self._ints([config.vocab_size]), axis=0)
        self._nodes.append(self._onnx.helper.make_node("Reshape", [logits_NV, shape_BSV], ["logits"]))

    def _activation(self, x: str) -> str:
        name = self._config.activation_function
        if name in {"silu", "swish"}:
            return self._add("Mul", x, self._add("Sigmoid", x))
        if name in {"relu", "tanh"}:
            return self._add(name.capitalize(), x)
        return self._add("Gelu", x, approximate="none" if name == "gelu" else "tanh")

    def _norm(self, x: str, name: str) -> str:
        scale, bias = self._table(f"{name}.weight"), self._table(f"{name}.bias")
        return self._add("LayerNormalization", x, scale, bias, epsilon=self._config.layer_norm_epsilon, axis=-1)

    def _linear(self, x: str, name: str) -> str:
        """`x` times the matrix as [in, out], plus the bias."""
        weight = self._weight(f"{name}.weight", self._state[f"{name}.weight"].t().contiguous().numpy())
        return self._add("Add", self._add("MatMul", x, weight), self._table(f"{name}.bias"))

    def _table(self, name: str) -> str:
        return self._weight(name, self._state[name].contiguous().numpy())

    def _weight(self, name: str, values: npt.NDArray[Any]) -> str:
        if name not in self._weights:
            self._weights[name] = self._onnx.numpy_helper.from_array(values, name)
        return name

    def _size_of(self, tensor: str, axis: int) -> str:
        shape = self._add("Shape", tensor, start=axis, end=axis + 1)
        return self._add("Squeeze", shape, self._ints([0]))

    def _float(self, value: float) -> str:
        return self._weight(f"float {value}", np.array(value, np.float32))

    def _int(self, value: int) -> str:
        return self._weight(f"int {value}", np.array(value, np.int64))

    def _ints(self, values: list[int]) -> str:
        return self._weight(f"ints {values}", np.array(values, np.int64))

    def _add(self, operation: str, *inputs: str, **attributes: Any) -> str:  # noqa: ANN401  as in onnx
        return self._add_many(operation, 1, *inputs, **attributes)[0]

    def _add_many(self, operation: str, n_outputs: int, *inputs: str, **attributes: Any) -> list[str]:  # noqa: ANN401
        outputs = [f"{operation}.{len(self._nodes)}.{number}" for number in range(n_outputs)]
        self._nodes.append(self._onnx.helper.make_node(operation, list(inputs), outputs, **attributes))
        return outputs


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
