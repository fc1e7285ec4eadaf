"""Hugging Face checkpoints into our model and back: the only place that knows Conv1D and padding.

Hugging Face's GPT-2 keeps four matrices of a block as [in, out] (Conv1D) where a linear layer has
[out, in], and its embedding table has no padded rows. Everything else has the same name and shape.
Old checkpoints also lack the `transformer.` prefix, carry causal masks as `attn.bias`, or repeat the tied head.

Reading: `model.safetensors`, sharded safetensors, and old `pytorch_model.bin` (sharded or not), the last only
through `weights_only=True`, so that nothing is ever unpickled into code. Writing: safetensors only.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import psutil
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from tunesmith.errors import UserError
from tunesmith.model.gpt2 import GPT2
from tunesmith.model.gpt2_config import GPT2Config
from tunesmith.model.hf_config import parse_hf_config, read_hf_config
from tunesmith.model.lora import adapted_layers
from tunesmith.utils.files import parse_json, write_atomically, write_json

CONV1D = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
PADDED = ("transformer.wte.weight", "lm_head.weight")
NOT_PARAMETERS = (".attn.bias", ".attn.masked_bias")
"""Constant masks that old versions of transformers saved as buffers."""

WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""Where a checkpoint's weights may be, the best first."""
SAFETENSORS_DTYPES = {
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int64: "I64",
    torch.int16: "I16",
    torch.uint8: "U8",
}
"""Names of dtypes in a file's header."""
NOTHING_ELSE: Mapping[str, Tensor] = MappingProxyType({})


def load_gpt2(folder: Path, *, dropout: float = 0.0) -> GPT2:
    """Read a checkpoint folder into an fp32 model on the CPU.

    Raises:
        UserError: if the folder is not a GPT-2, asks for what is not implemented, or its weights do not fit.
    """
    config = parse_hf_config(read_hf_config(folder), origin=str(folder))
    with torch.device("meta"):
        model = GPT2(config, dropout=dropout)
    _refuse_more_than_stored(model, folder)
    model.to_empty(device="cpu")
    read_into(model, folder)
    return model


def read_into(model: GPT2, folder: Path) -> None:
    """Overwrite the weights of a model with those of a checkpoint folder of its shape, in the dtypes it has.

    Raises:
        UserError: if they do not fit.
    """
    config = model.config
    parameters = dict(model.named_parameters())
    missing = set(parameters)
    for stored_name, tensor in _stored_tensors(folder):
        name = _our_name(stored_name)
        if name.endswith(NOT_PARAMETERS):
            continue
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue  # the tied head stored once more
        if name not in parameters:
            raise UserError(
                "{folder} contains the tensor {stored_name!r}, which a GPT-2 language model does not have",
                hint="merge adapters or remove task heads with the tool that made the checkpoint, then try again",
                folder=folder,
                stored_name=stored_name,
            )
        _fill(parameters[name], name, tensor, config.vocab_size, folder)
        missing.discard(name)
    if missing:
        raise UserError(
            "{folder} lacks {n_missing} of {n_parameters} tensors, the first {first!r}",
            hint="the download is incomplete or config.json belongs to another checkpoint; get the files again",
            folder=folder,
            n_missing=len(missing),
            n_parameters=len(parameters),
            first=min(missing),
        )
    model.zero_padded_rows()


def model_from_state_dict(config: GPT2Config, state: Mapping[str, Tensor]) -> GPT2:
    """A model in fp32 on the CPU from weights under our names, as `merged_state_dict` gives them.

    Args:
        config: its shape.
        state: every weight, matrices as [out, in], without padded rows.
    """
    with torch.device("meta"):
        model = GPT2(config)
    model.to_empty(device="cpu")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            (parameter[: config.vocab_size] if name in PADDED else parameter).copy_(state[name])
    model.zero_padded_rows()
    return model.eval()


def init_gpt2(folder: Path, *, dropout: float, seed: int) -> GPT2:
    """A model of the folder's shape with fresh weights (`--from-scratch`); its weights are not read."""
    config = parse_hf_config(read_hf_config(folder), origin=str(folder))
    with torch.device("meta"):
        model = GPT2(config, dropout=dropout)
    needed = sum(parameter.nbytes for parameter in model.parameters())
    if needed > psutil.virtual_memory().total:
        raise UserError(
            "{folder}: config.json asks for {needed_gib:,.0f} GiB of weights, more than this machine has memory",
            hint="take a smaller shape",
            folder=folder,
            needed_gib=needed / 2**30,
        )
    model.to_empty(device="cpu")
    model.initialize(torch.Generator().manual_seed(seed))
    return model


def save_gpt2(
    model: GPT2,
    folder: Path,
    *,
    hf_config: dict[str, Any],
    dtype: torch.dtype = torch.float32,
    whole: Mapping[str, Tensor] = NOTHING_ELSE,
) -> None:
    """Write `config.json` and `model.safetensors` as transformers would, replacing both atomically.

    Args:
        model: whose weights to write.
        folder: an existing folder.
        hf_config: the `config.json` that the model came from; what describes its origin is left out.
        dtype: of the stored weights.
        whole: complete weights by name, where the model has only half of them.
    """
    write_weights(to_hf_state_dict(model, whole), folder, hf_config=hf_config, dtype=dtype)


def write_weights(
    state: Mapping[str, Tensor], folder: Path, *, hf_config: dict[str, Any], dtype: torch.dtype = torch.float32
) -> None:
    """`save_gpt2` of weights that were taken from a model before, or are made one by one while they are written.

    Args:
        state: what `to_hf_state_dict` gave.
        folder: as above, like the others.
        hf_config: the same.
        dtype: the same.
    """
    if isinstance(state, dict):
        state = {name: tensor.to(dtype).contiguous() for name, tensor in state.items()}
    write_safetensors(state, folder / "model.safetensors", metadata={"format": "pt"})
    dropped = ("_name_or_path", "torch_dtype", "transformers_version")
    kept = {key: value for key, value in hf_config.items() if key not in dropped}
    write_json(
        folder / "config.json",
        {**kept, "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "dtype": str(dtype)[6:]},
    )


def write_safetensors(tensors: Mapping[str, Tensor], path: Path, *, metadata: dict[str, str] | None = None) -> None:
    """Write a file atomically: a dictionary by the library, another mapping tensor by tensor.

    Args:
        tensors: on the CPU; a mapping that makes them is gone through a few times, always in the same order.
        path: the file.
        metadata: for its header.

    Raises:
        OSError: if the disk is full or fails.
        SafetensorError: likewise, said by the library.
    """
    if isinstance(tensors, dict):
        write_atomically(path, lambda temporary: save_file(tensors, temporary, metadata))
    else:
        write_atomically(path, lambda temporary: _write_one_by_one(tensors, temporary, metadata))


def _write_one_by_one(tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str] | None) -> None:
    """As the format has it: the header's length, the header as JSON, and the numbers, the widest first."""
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    about = {name: (tensor.dtype, list(tensor.shape), tensor.nbytes) for name, tensor in tensors.items()}
    widths = sorted({dtype.itemsize for dtype, _, _ in about.values()}, reverse=True)
    end = 0
    for name, (dtype, shape, n_bytes) in sorted(about.items(), key=lambda entry: -entry[1][0].itemsize):
        header[name] = {"dtype": SAFETENSORS_DTYPES[dtype], "shape": shape, "data_offsets": [end, end + n_bytes]}
        end += n_bytes
    encoded = json.dumps(header, separators=(",", ":"), allow_nan=False).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for width in widths:  # numbers of each width start at multiples of it
            for tensor in tensors.values():
                if tensor.itemsize == width:
                    file.write(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)


def from_hf_state_dict(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What `to_hf_state_dict` gave, with matrices as [out, in] again."""
    return {name: tensor.t() if name.endswith(CONV1D) else tensor for name, tensor in state.items()}


def to_hf_state_dict(model: GPT2, whole: Mapping[str, Tensor] = NOTHING_ELSE) -> dict[str, Tensor]:
    """The model's parameters under Hugging Face's names and shapes, on the CPU; adapters are merged into them.

    Args:
        model: whose parameters to take.
        whole: weights to take instead of the model's own.
    """
    return {name: tensor.cpu() for name, tensor in iter_hf_tensors(model, whole)}


def iter_hf_tensors(model: GPT2, whole: Mapping[str, Tensor] = NOTHING_ELSE) -> Iterator[tuple[str, Tensor]]:
    """The same, one after the other and where they are."""
    for name, tensor in _merged_tensors(model, whole):
        yield name, tensor.t() if name.endswith(CONV1D) else tensor


def merged_state_dict(model: GPT2, whole: Mapping[str, Tensor] = NOTHING_ELSE) -> dict[str, Tensor]:
    """The model's parameters under Hugging Face's names, matrices as [out, in]; the arguments are as above."""
    return {name: tensor.cpu() for name, tensor in _merged_tensors(model, whole)}


def _merged_tensors(model: GPT2, whole: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    merged = {f"{name}.weight": layer for name, layer in adapted_layers(model)}
    for name, parameter in model.named_parameters():
        if name.endswith((".lora_A", ".lora_B")):
            continue
        tensor = (merged[name].merged_weight() if name in merged else whole.get(name, parameter)).detach()
        yield name, tensor[: model.config.vocab_size] if name in PADDED else tensor


def _our_name(stored_name: str) -> str:
    if stored_name.startswith(("transformer.", "lm_head.")):
        return stored_name
    return f"transformer.{stored_name}"


@torch.no_grad()
def _fill(parameter: torch.nn.Parameter, name: str, tensor: Tensor, vocab_size: int, folder: Path) -> None:
    if name.endswith(CONV1D) and tensor.ndim == 2:
        tensor = tensor.t()
    target = parameter[:vocab_size] if name in PADDED else parameter
    if tensor.shape != target.shape or not tensor.is_floating_point():
        raise UserError(
            "{folder}: {name} is {dtype} {shape}, but config.json asks for {wanted_shape}",
            hint="config.json and the weights belong to different checkpoints; get both again",
            folder=folder,
            name=name,
            dtype=tensor.dtype,
            shape=list(tensor.shape),
            wanted_shape=list(target.shape),
        )
    target.copy_(tensor)


def _refuse_more_than_stored(model: GPT2, folder: Path) -> None:
    """Before anything is allocated: a weight takes a byte on disk at least."""
    claimed = sum(parameter.numel() for parameter in model.parameters())
    paths = [path for path in weight_files(folder) if path.is_file()]
    stored = sum(path.stat().st_size for path in paths)
    if stored and claimed > stored:
        raise UserError(
            "{path} cannot be read: config.json asks for {claimed:,} weights, and there are {stored:,} bytes",
            hint="the file is incomplete, or config.json belongs to another checkpoint; get both again",
            path=paths[0],
            claimed=claimed,
            stored=stored,
        )


def weight_files(folder: Path) -> list[Path]:
    """Find the files with a checkpoint's weights; empty if there are none.

    Raises:
        UserError: if an index names files that are not in its folder.
    """
    path = next((folder / name for name in WEIGHT_FILES if (folder / name).is_file()), None)
    if path is None:
        return []
    return _shards(path) if path.suffix == ".json" else [path]


def _stored_tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the checkpoint, one at a time, under its stored name."""
    shards = weight_files(folder)
    if not shards:
        raise UserError(
            "{folder} has a config.json but no weights ({names})",
            hint="get the model's files again, or add --from-scratch to start with fresh weights",
            folder=folder,
            names=", ".join(WEIGHT_FILES[::2]),
        )
    for shard in shards:
        try:
            yield from _safetensors(shard) if shard.suffix == ".safetensors" else _pickled_tensors(shard)
        except UserError:
            raise
        except Exception as error:  # noqa: BLE001  a damaged pickle makes torch's reader raise anything
            raise UserError(
                "{shard} cannot be read: {error}",
                hint="the file is damaged or incomplete; get it again",
                shard=shard,
                error=str(error).splitlines()[0] if str(error) else type(error).__name__,
            ) from None


def _shards(index_path: Path) -> list[Path]:
    try:
        names = sorted(set(parse_json(index_path.read_text("utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError):
        raise UserError(
            "{index_path} is not a valid weight index", hint="get the model's files again", index_path=index_path
        ) from None
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or not name.endswith((".safetensors", ".bin")):
            raise UserError(
                "{index_path} names the file {name!r}, which is not in its folder",
                hint="do not use this checkpoint: its index points outside its folder",
                index_path=index_path,
                name=name,
            )
    return [index_path.parent / name for name in names]


def _safetensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118  safe_open is not a mapping
            yield name, file.get_tensor(name)


def _pickled_tensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    content = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(content, dict):
        raise UserError("{path} does not contain a state dict", hint="get the model's files again", path=path)
    for name, tensor in content.items():
        if isinstance(tensor, Tensor):
            yield str(name), tensor


def resize_token_embeddings(model: GPT2, pieces: Mapping[int, Sequence[int]]) -> GPT2:
    """The same model with a row for each new token: the mean of the rows of the tokens that spelled it before.

    Rows of old tokens stay as they are, to the last bit; a tied head stays tied.
    Reference: Hewitt 2021, "Initializing New Word Embeddings for Pretrained Language Models".

    Args:
        model: the old one.
        pieces: for each new id the old ids of its text.
    """
    vocab_size = max(model.config.vocab_size, *(token_id + 1 for token_id in pieces))
    state = {
        name: _grown(tensor, pieces, vocab_size) if name in PADDED else tensor
        for name, tensor in merged_state_dict(model).items()
    }
    return model_from_state_dict(replace(model.config, vocab_size=vocab_size), state)


def _grown(table_VC: Tensor, pieces: Mapping[int, Sequence[int]], vocab_size: int) -> Tensor:
    grown_VC = torch.zeros(vocab_size, table_VC.shape[1])
    grown_VC[: len(table_VC)] = table_VC
    for token_id, old in pieces.items():
        grown_VC[token_id] = table_VC[list(old)].mean(dim=0)
    return grown_VC
