"""GGUF, the file that llama.cpp, Ollama and LM Studio run, with an Ollama `Modelfile` next to it.

Matrices are stored in the requested type; norms, biases and the position table are fp32, as in llama.cpp's own
converter. Reference: docs/gguf.md in the ggml repository.
"""

import json
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from tunesmith.config import GenerateConfig
from tunesmith.convert.exported_model import Exported, needs
from tunesmith.convert.verify import Logits, Verification, verify
from tunesmith.data.tokenizer import TextTokenizer
from tunesmith.errors import UserError
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
    """Run the file in llama.cpp where llama-cpp-python is installed; else read it and compare every number.

    Raises:
        UserError: if it differs.
    """
    path = _path(exported, folder, dtype)
    if find_spec("llama_cpp") is not None:
        with LlamaCpp(path) as runtime:
            return verify(exported, runtime, largest_difference=LARGEST_DIFFERENCE[dtype])
    return _read_back(exported, path)


def gguf_name(name: str) -> str:
    """Translate a weight's name: `transformer.h.0.attn.c_attn.weight` is `blk.0.attn_qkv.weight` in GGUF."""
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
    """Compare every tensor of the file with the model, within the rounding of its type."""
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
                hint="take --format onnx, which computes every switch",
                switch=switch,
                value=getattr(config, switch),
            )


NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
"""Kinds of tokens (`TokenType` of the gguf library)."""


def add_vocabulary(writer: Any, tokenizer: TextTokenizer, vocab_size: int) -> None:  # noqa: ANN401  GGUFWriter
    """Write tokens, merges and special ids so that llama.cpp makes the same ids of a text, end-of-text before it.

    Args:
        writer: a `gguf.GGUFWriter`.
        tokenizer: byte-level BPE as GPT-2's.
        vocab_size: rows of the embedding table; ids without a token become unused ones.

    Raises:
        UserError: if it is of another kind.
    """
    content = json.loads(tokenizer.json)
    if not tokenizer.may_be_cut or content["model"]["type"] != "BPE":
        raise UserError(
            "the tokenizer in {folder} is not a byte-level BPE like GPT-2's, and only that can be written as GGUF",
            hint="take --format onnx or --format safetensors, which keep the tokenizer as it is",
            folder=tokenizer.folder,
        )
    tokens = [f"[UNUSED{number}]" for number in range(vocab_size)]
    kinds = [UNUSED] * vocab_size
    for token, number in content["model"]["vocab"].items():
        tokens[number], kinds[number] = token, NORMAL
    for added in content["added_tokens"]:
        tokens[added["id"]] = added["content"]
        kinds[added["id"]] = CONTROL if added["special"] else USER_DEFINED
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in content["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    for add_id in (writer.add_bos_token_id, writer.add_eos_token_id, writer.add_unk_token_id):
        add_id(tokenizer.end_of_text_id)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)


def modelfile(exported: Exported, gguf_name: str) -> str:
    """Return the `Modelfile` for `ollama create`: plain text completion, with the defaults of `tunesmith generate`."""
    settings = {
        "num_ctx": exported.model.config.n_positions,
        "temperature": GenerateConfig.temperature[0],
        "top_k": GenerateConfig.top_k,
        "top_p": GenerateConfig.top_p,
        "repeat_penalty": GenerateConfig.repetition_penalty,
        "num_predict": GenerateConfig.max_new_tokens,
        "stop": f'"{exported.tokenizer.end_of_text}"',
    }
    lines = [f"FROM ./{gguf_name}", 'TEMPLATE """{{ .Prompt }}"""']
    return "\n".join([*lines, *(f"PARAMETER {name} {value}" for name, value in settings.items())]) + "\n"


F32_CACHE = 0
"""`GGML_TYPE_F32`, for keys and values: what is compared is the file."""


class LlamaCpp:
    """Runs a GGUF file through llama-cpp-python."""

    def __init__(self, path: Path) -> None:
        library = needs("llama_cpp")
        self.name = f"llama-cpp-python {version('llama-cpp-python')}"
        self._llama = library.Llama(
            str(path),
            n_ctx=0,  # all that the model has
            n_gpu_layers=0,
            logits_all=True,
            type_k=F32_CACHE,
            type_v=F32_CACHE,
            verbose=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._llama.close()

    def encode(self, text: str) -> list[int] | None:
        """The ids, end-of-text before them."""
        return [int(token) for token in self._llama.tokenize(text.encode("utf-8"), add_bos=True, special=False)]

    def read(self, tokens: list[int]) -> Logits:
        """Logits after each token, [N, V]."""
        self._llama.reset()
        self._llama.eval(tokens)
        return np.array(self._llama.scores[: len(tokens)], np.float32)

    def go_on(self, token: int) -> Logits:
        """Logits after one more token, [V]."""
        self._llama.eval([token])
        return np.array(self._llama.scores[self._llama.n_tokens - 1], np.float32)
