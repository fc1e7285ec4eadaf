"""GGUF, the file that llama.cpp, Ollama, LM Studio and their kin run, with an Ollama `Modelfile` beside it.

Matrices are kept in the type that was asked for; norms, biases and the position table are fp32, as in llama.cpp's own
converter. Reference: docs/gguf.md in the ggml repository.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tunesmith.errors import UserError
from tunesmith.exporting.exported import Exported
from tunesmith.exporting.extra import needs
from tunesmith.exporting.gguf_vocabulary import add_vocabulary
from tunesmith.exporting.modelfile import modelfile
from tunesmith.exporting.verification import Verification, verify
from tunesmith.model.gpt2_config import GPT2Config
from tunesmith.utils.files import write_text

FILE_TYPES = {"f32": 0, "f16": 1, "q8_0": 7}
"""`LlamaFileType` of what most tensors are kept in."""
LARGEST_DIFFERENCE = {"f32": 0.05, "f16": 0.1, "q8_0": 4.0}
"""Between logits, in nats. llama.cpp takes GELU from a table in fp16, and Q8_0 rounds weights and inputs."""
TANH_GELU = ("gelu_new", "gelu_pytorch_tanh", "gelu_fast")

NAMES = {
    "transformer.wte": "token_embd",
    "transformer.wpe": "position_embd",
    "transformer.ln_f": "output_norm",
    "lm_head": "output",
}
BLOCK_NAMES = {
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}


def write_gguf(exported: Exported, folder: Path, dtype: str) -> None:
    """Write `NAME-TYPE.gguf` and `Modelfile`.

    Raises:
        UserError: if llama.cpp would compute something else than the model.
    """
    gguf = needs("gguf")
    config = exported.model.config
    _refuse_other_arithmetic(config)
    path = _path(exported, folder, dtype)
    writer = gguf.GGUFWriter(path, "gpt2")
    writer.add_name(exported.name)
    writer.add_context_length(config.n_positions)
    writer.add_embedding_length(config.n_embd)
    writer.add_feed_forward_length(config.n_inner)
    writer.add_block_count(config.n_layer)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)
    writer.add_file_type(FILE_TYPES[dtype])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    add_vocabulary(writer, exported.tokenizer, config.vocab_size)
    for name, tensor in exported.state.items():
        _add_tensor(writer, gguf, gguf_name(name), tensor.contiguous().numpy(), dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    write_text(folder / "Modelfile", modelfile(exported, path.name))


def verify_gguf(exported: Exported, folder: Path, dtype: str) -> Verification:
    """Run it in llama.cpp where llama-cpp-python is installed; else read the file and compare every number.

    Raises:
        UserError: if it differs.
    """
    path = _path(exported, folder, dtype)
    if find_spec("llama_cpp") is not None:
        from tunesmith.exporting.llama_cpp import LlamaCpp

        with LlamaCpp(path) as runtime:
            return verify(exported, runtime, largest_difference=LARGEST_DIFFERENCE[dtype])
    return _read_back(exported, path)


def gguf_name(name: str) -> str:
    """`transformer.h.0.attn.c_attn.weight` is `blk.0.attn_qkv.weight` there."""
    module, _, kind = name.rpartition(".")
    if module in NAMES:
        return f"{NAMES[module]}.{kind}"
    layer, _, part = module.removeprefix("transformer.h.").partition(".")
    return f"blk.{layer}.{BLOCK_NAMES[part]}.{kind}"


def _path(exported: Exported, folder: Path, dtype: str) -> Path:
    return folder / f"{exported.name}-{dtype}.gguf"


def _kept_type(gguf: Any, name: str, shape: tuple[int, ...], dtype: str) -> Any:  # noqa: ANN401  of an untyped library
    types = gguf.GGMLQuantizationType
    if len(shape) < 2 or name == "position_embd.weight" or dtype == "f32":
        return types.F32
    block, _ = gguf.GGML_QUANT_SIZES[types.Q8_0]
    return types.Q8_0 if dtype == "q8_0" and shape[-1] % block == 0 else types.F16


def _add_tensor(writer: Any, gguf: Any, name: str, tensor: npt.NDArray[np.float32], dtype: str) -> None:  # noqa: ANN401
    kept = _kept_type(gguf, name, tensor.shape, dtype)
    writer.add_tensor(name, gguf.quants.quantize(tensor, kept), raw_dtype=kept)


def _read_back(exported: Exported, path: Path) -> Verification:
    """Every tensor once more from the file, against the model, within what its type can hold."""
    gguf = needs("gguf")
    expected = {gguf_name(name): tensor.contiguous().numpy() for name, tensor in exported.state.items()}
    largest = 0.0
    reader = gguf.GGUFReader(path)
    for found in reader.tensors:
        values = gguf.quants.dequantize(found.data, found.tensor_type)
        wanted = expected.pop(found.name)
        steps = {"F32": 0.0, "F16": 2**-11, "Q8_0": 1 / 127}[found.tensor_type.name]  # of the largest number around
        difference = float(np.abs(values - wanted).max())
        if values.shape != wanted.shape or not difference <= steps * float(np.abs(wanted).max()):
            raise UserError(
                "{path}: {tensor} does not read back as it was written",
                hint="nothing was kept; the disk is damaged, or it is a mistake in tunesmith",
                path=path,
                tensor=found.name,
            )
        largest = max(largest, difference)
    assert not expected
    return Verification(f"gguf {gguf.__version__ if hasattr(gguf, '__version__') else ''}".strip(), largest, 0, 0)


def _refuse_other_arithmetic(config: GPT2Config) -> None:
    """llama.cpp knows one GPT-2: tanh GELU, scores over the root of a head's channels.

    Raises:
        UserError: for any other.
    """
    other = {
        "activation_function": config.activation_function not in TANH_GELU,
        "scale_attn_weights": not config.scale_attn_weights,
        "scale_attn_by_inverse_layer_idx": config.scale_attn_by_inverse_layer_idx,
    }
    for switch, is_other in other.items():
        if is_other:
            raise UserError(
                "the model sets {switch}={value}, and llama.cpp computes GPT-2 without it",
                hint="take --to onnx, which computes every switch",
                switch=switch,
                value=getattr(config, switch),
            )
