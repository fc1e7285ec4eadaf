"""TensorFlow's checkpoint format (a "bundle"), read without TensorFlow.

`NAME.index` is a LevelDB table: sorted keys, prefix-compressed in blocks, each block with a CRC-32C. Its values are
protocol buffers that say where in `NAME.data-00000-of-00001` a tensor's bytes are.

Reference: tensor_bundle.proto, table/format.cc and lib/hash/crc32c.h in the TensorFlow repository.
"""

import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tunesmith.convert.imported_model import ForeignModel, refuse_incomplete
from tunesmith.data.tokenizer import load_tokenizer_files
from tunesmith.errors import UserError
from tunesmith.model.hf_config import parse_hf_config
from tunesmith.utils.files import parse_json

MAGIC = 0xDB4775248B80FB57
FOOTER_BYTES = 48
BLOCK_TRAILER_BYTES = 5
"""How a block is compressed, and its checksum."""
DTYPES = {1: torch.float32, 14: torch.bfloat16, 19: torch.float16}
"""`DataType` of TensorFlow: those that weights come in; counters and the like are passed over."""

Fields = dict[int, list[int | bytes]]


class Bundle:
    """Tensors of a TensorFlow checkpoint, keyed as in the file; `prefix` is the path without `.index`.

    Raises:
        UserError: if it is not a bundle, or damaged.
    """

    def __init__(self, prefix: Path) -> None:
        self.path = prefix.with_name(f"{prefix.name}.index")
        try:
            self._entries = dict(_table_entries(self.path.read_bytes()))
            header = _fields(self._entries.pop(b""))
            self._n_shards = _number(header, 1)
            self._tensors = {key.decode("utf-8"): _fields(value) for key, value in self._entries.items()}
        except (ValueError, KeyError, IndexError, struct.error) as error:
            raise UserError(
                "{path} is not an index of a TensorFlow checkpoint, or is damaged: {reason}",
                hint="copy the checkpoint again, all files of it",
                path=self.path,
                reason=error,
            ) from None
        self._prefix = prefix

    def names(self) -> list[str]:
        """Of tensors that can be weights."""
        return [name for name, fields in self._tensors.items() if _number(fields, 1) in DTYPES]

    def tensor(self, name: str) -> Tensor:
        """A tensor as it is stored.

        Raises:
            UserError: if its file is missing or too short, or its bytes are not those that were written.
        """
        fields = self._tensors[name]
        dtype = DTYPES[_number(fields, 1)]
        sizes = [_number(_fields(dim), 1) for dim in _fields(_bytes(fields, 2)).get(2, []) if isinstance(dim, bytes)]
        offset, n_bytes = _number(fields, 4), _number(fields, 5)
        path = self._prefix.with_name(f"{self._prefix.name}.data-{_number(fields, 3):05d}-of-{self._n_shards:05d}")
        try:
            with path.open("rb") as file:
                file.seek(offset)
                content = bytearray(file.read(n_bytes))
        except OSError as error:
            raise UserError(
                "{path} cannot be read: {reason}",
                hint="a checkpoint has an .index and a .data file; copy both",
                path=path,
                reason=error.strerror or error,
            ) from None
        tensor = torch.frombuffer(content, dtype=dtype) if content else torch.zeros(0, dtype=dtype)
        if len(content) < n_bytes or tensor.numel() != torch.Size(sizes).numel():
            raise UserError(
                "{path} ends before {name!r} does",
                hint="the file is incomplete; copy it again",
                path=path,
                name=name,
            )
        return tensor.reshape(sizes)


def _table_entries(table: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a LevelDB table."""
    if len(table) < FOOTER_BYTES or struct.unpack("<Q", table[-8:])[0] != MAGIC:
        raise ValueError("it does not end as one")
    footer = table[-FOOTER_BYTES:]
    _, place = _varint(footer, 0)
    _, place = _varint(footer, place)  # the index of filters, which has none
    offset, place = _varint(footer, place)
    size, _ = _varint(footer, place)
    for _, handle in _block_entries(_block(table, offset, size)):
        start, place = _varint(handle, 0)
        yield from _block_entries(_block(table, start, _varint(handle, place)[0]))


def _block(table: bytes, offset: int, size: int) -> bytes:
    block, trailer = table[offset : offset + size], table[offset + size : offset + size + BLOCK_TRAILER_BYTES]
    if len(trailer) < BLOCK_TRAILER_BYTES:
        raise ValueError("it is too short")
    if trailer[0]:
        raise ValueError("it is compressed")
    if struct.unpack("<I", trailer[1:])[0] != masked_crc32c(block + trailer[:1]):
        raise ValueError("its checksum is another")
    return block


def _block_entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    n_restarts = struct.unpack("<I", block[-4:])[0]
    end, place, key = len(block) - 4 * (n_restarts + 1), 0, b""
    while place < end:
        shared, place = _varint(block, place)
        own, place = _varint(block, place)
        n_bytes, place = _varint(block, place)
        key = key[:shared] + block[place : place + own]
        yield key, block[place + own : place + own + n_bytes]
        place += own + n_bytes


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """A number in groups of seven bits, and where it ends."""
    value = shift = 0
    while True:
        byte = data[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place


def _fields(message: int | bytes) -> Fields:
    """A protocol buffer's fields by number, undecoded."""
    if not isinstance(message, bytes):
        raise ValueError("it does not parse")  # noqa: TRY004  of a file, not of an argument
    fields: Fields = {}
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        value: int | bytes
        match tag & 7:
            case 0:
                value, place = _varint(message, place)
            case 2:
                n_bytes, place = _varint(message, place)
                value, place = message[place : place + n_bytes], place + n_bytes
            case 5:
                value, place = struct.unpack("<I", message[place : place + 4])[0], place + 4
            case _:
                raise ValueError("it does not parse")
        fields.setdefault(tag >> 3, []).append(value)
    return fields


def _number(fields: Fields, number: int) -> int:
    value = fields.get(number, [0])[-1]
    return value if isinstance(value, int) else 0


def _bytes(fields: Fields, number: int) -> bytes:
    value = fields.get(number, [b""])[-1]
    return value if isinstance(value, bytes) else b""


def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
        table.append(crc)
    return table


def masked_crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli) as LevelDB stores it: rotated, plus a constant."""
    table, crc = _crc_table(), 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


HPARAMS, ENCODER, MERGES, LATEST = "hparams.json", "encoder.json", "vocab.bpe", "checkpoint"
SIZES = {"n_vocab": "vocab_size", "n_ctx": "n_positions", "n_embd": "n_embd", "n_layer": "n_layer", "n_head": "n_head"}
SLOTS = ("Adam", "Adam_1", "Momentum")
"""What optimizers of TensorFlow keep next to a weight."""


def is_openai(path: Path) -> bool:
    """Whether a path is such a folder, or one of its checkpoints."""
    return (path / HPARAMS).is_file() or (not path.is_dir() and (path.parent / HPARAMS).is_file())


def read_openai(path: Path) -> ForeignModel:
    """Read a folder's latest checkpoint, or the one that is named (`model-500`, with or without `.index`).

    Raises:
        UserError: if something is missing or damaged.
    """
    folder = path if path.is_dir() else path.parent
    prefix = _latest(folder) if path.is_dir() else path.with_suffix("") if path.suffix == ".index" else path
    raw = _hparams(folder / HPARAMS)
    config = parse_hf_config({SIZES[key]: value for key, value in raw.items() if key in SIZES}, origin=str(folder))
    bundle = Bundle(prefix)
    state = {
        _our_name(name): _our_layout(name, bundle.tensor(name))
        for name in bundle.names()
        if not name.endswith(SLOTS) and name.startswith("model/")
    }
    refuse_incomplete(bundle.path, config, state)
    has_tokenizer = (folder / ENCODER).is_file() and (folder / MERGES).is_file()
    tokenizer = load_tokenizer_files(folder / ENCODER, folder / MERGES) if has_tokenizer else None
    return ForeignModel(f"TensorFlow, {prefix.name}", config, state, tokenizer)


def _latest(folder: Path) -> Path:
    """What the file `checkpoint` names, or the only one there is."""
    found = sorted(path.with_suffix("") for path in folder.glob("*.index"))
    state = folder / LATEST
    named = (
        re.search(r'^model_checkpoint_path: "(.*)"', state.read_text("utf-8"), re.MULTILINE)
        if state.is_file()
        else None
    )
    if named:
        prefix = folder / re.split(r"[/\\]", named[1])[-1]  # it may have been written in another place
        if prefix in found or len(found) != 1:
            return prefix
    if len(found) != 1:
        raise UserError(
            "{folder} contains {count} TensorFlow checkpoints, and nothing says which one to use",
            hint="name one, for example {folder}/model-1000, or copy the file checkpoint too",
            folder=folder,
            count=len(found),
        )
    return found[0]


def _hparams(path: Path) -> dict[str, Any]:
    try:
        raw = parse_json(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            "{path} cannot be read: {reason}", hint="copy the checkpoint again", path=path, reason=error
        ) from None
    if not isinstance(raw, dict) or not set(SIZES) <= set(raw):
        raise UserError("{path} does not say the model's shape", hint="copy the checkpoint again", path=path)
    return raw


def _our_name(name: str) -> str:
    """`model/h0/attn/c_attn/w` is `transformer.h.0.attn.c_attn.weight` here."""
    parts = name.removeprefix("model/").split("/")
    if len(parts) == 1:
        return f"transformer.{parts[0]}.weight"
    layer = re.fullmatch(r"h(\d+)", parts[0])
    if layer:
        parts[0] = f"h.{layer[1]}"
    parts[-1] = {"w": "weight", "g": "weight", "b": "bias"}.get(parts[-1], parts[-1])
    return f"transformer.{'.'.join(parts)}"


def _our_layout(name: str, tensor: Tensor) -> Tensor:
    """A matrix is [1, in, out] there."""
    return tensor[0].t() if name.endswith("/w") and tensor.ndim == 3 else tensor
