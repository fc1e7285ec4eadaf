"""TensorFlow checkpoints, written here by protocol buffers of the `protobuf` library and a table writer of our own."""

import json
import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from tokenizers import Tokenizer
from transformers import GPT2LMHeadModel

import tunesmith
from tunesmith.convert.import_openai import masked_crc32c
from tunesmith.errors import UserError

INT32, INT64, FIXED32, MESSAGE = 5, 3, 7, 11
RESTART_INTERVAL = 3
BLOCK_BYTES = 300
"""Small, so that there are several of them."""


def protocol() -> dict[str, type]:
    """The three messages of tensor_bundle.proto and tensor_shape.proto that are needed."""
    file = descriptor_pb2.FileDescriptorProto(name="bundle.proto", package="b", syntax="proto3")

    def message(name: str, *fields: tuple[str, int, int, str | None, int]) -> None:
        made = file.message_type.add(name=name)
        for field, number, kind, of, label in fields:
            added = made.field.add(name=field, number=number, type=kind, label=label)
            if of:
                added.type_name = f".b.{of}"

    message("Dim", ("size", 1, INT64, None, 1))
    message("Shape", ("dim", 2, MESSAGE, "Dim", 3))
    message("Header", ("num_shards", 1, INT32, None, 1), ("endianness", 2, INT32, None, 1))
    message(
        "Entry",
        ("dtype", 1, INT32, None, 1),
        ("shape", 2, MESSAGE, "Shape", 1),
        ("shard_id", 3, INT32, None, 1),
        ("offset", 4, INT64, None, 1),
        ("size", 5, INT64, None, 1),
        ("crc32c", 6, FIXED32, None, 1),
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    names = ("Shape", "Header", "Entry")
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"b.{name}")) for name in names}


def crc32c(data: bytes) -> int:
    """Bit by bit, as the polynomial is written."""
    crc = 0xFFFFFFFF
    for byte in data:
        for bit in range(8):
            carry = (crc ^ byte >> bit) & 1
            crc = crc >> 1 ^ 0x82F63B78 * carry
    return crc ^ 0xFFFFFFFF


def varint(value: int) -> bytes:
    out = b""
    while value >= 0x80:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def block(entries: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Entries that share the beginnings of their keys, and where they do not."""
    content, restarts, before = b"", [], b""
    for number, (key, value) in enumerate(entries):
        shared = 0
        if number % RESTART_INTERVAL:
            while shared < min(len(key), len(before)) and key[shared] == before[shared]:
                shared += 1
        else:
            restarts.append(len(content))
        content += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        before = key
    return content + struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))


def table(entries: list[tuple[bytes, bytes]]) -> bytes:
    """A LevelDB table."""
    out, handles, waiting = b"", [], []

    def write(content: bytes) -> bytes:
        nonlocal out
        handle = varint(len(out)) + varint(len(content))
        crc = crc32c(content + b"\0")
        masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
        out += content + b"\0" + struct.pack("<I", masked)
        return handle

    for entry in entries:
        waiting.append(entry)
        if sum(len(key) + len(value) for key, value in waiting) > BLOCK_BYTES:
            handles.append((waiting[-1][0], write(block(waiting))))
            waiting = []
    if waiting:
        handles.append((waiting[-1][0], write(block(waiting))))
    meta = write(block([]))
    index = write(block(handles))
    return out + (meta + index).ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)


def write_bundle(prefix: Path, tensors: dict[str, np.ndarray]) -> None:
    """`prefix.index` and `prefix.data-00000-of-00001`."""
    messages, data, entries = protocol(), b"", []
    for name, values in sorted(tensors.items()):
        shape = messages["Shape"]()
        for size in values.shape:
            shape.dim.add(size=size)
        dtype = {"float32": 1, "int64": 9}[str(values.dtype)]
        content = values.tobytes()
        entry = messages["Entry"](dtype=dtype, shape=shape, offset=len(data), size=len(content), crc32c=1)
        data += content
        entries.append((name.encode(), entry.SerializeToString()))
    header = messages["Header"](num_shards=1)
    prefix.with_name(f"{prefix.name}.index").write_bytes(table([(b"", header.SerializeToString()), *entries]))
    prefix.with_name(f"{prefix.name}.data-00000-of-00001").write_bytes(data)


def openai_names(model: GPT2LMHeadModel) -> dict[str, np.ndarray]:
    """A transformers model under the names and shapes of OpenAI's code."""
    tensors: dict[str, np.ndarray] = {}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight":
            continue
        parts = name.removeprefix("transformer.").replace("h.", "h", 1).split(".")
        kind = parts.pop() if parts[0] not in {"wte", "wpe"} else None
        values = tensor.numpy()
        if kind:
            is_norm = parts[-1].startswith("ln_")
            parts.append({"weight": "g" if is_norm else "w", "bias": "b"}[kind])
            values = values[None] if parts[-1] == "w" else values
        else:
            parts.pop()
        tensors["/".join(["model", *parts])] = values
    return tensors


@pytest.fixture
def run1(make_model_folder: Callable[..., Path], small_tokenizer: Tokenizer, tmp_path: Path) -> Path:
    """`checkpoint/run1` as gpt-2-simple leaves it, with an older checkpoint beside the latest."""
    source = make_model_folder("source")
    run = tmp_path / "checkpoint" / "run1"
    run.mkdir(parents=True)
    tensors = openai_names(GPT2LMHeadModel.from_pretrained(source))
    tensors["model/wpe"].view(np.uint32)[0, :4] = [0x80000000, 1, 0x7F7FFFFF, 0x00800000]  # -0, smallest, largest
    write_bundle(run / "model-500", {**tensors, "model/wte/Adam": tensors["model/wte"], "step": np.array(500)})
    write_bundle(run / "model-100", {name: values * 0 for name, values in tensors.items()})
    (run / "checkpoint").write_text('model_checkpoint_path: "C:\\\\old\\\\model-500"\n', encoding="utf-8")
    shape = {"n_vocab": 300, "n_ctx": 64, "n_embd": 32, "n_head": 4, "n_layer": 2}
    (run / "hparams.json").write_text(json.dumps(shape), encoding="utf-8")
    content = json.loads(small_tokenizer.to_str())["model"]
    (run / "encoder.json").write_text(json.dumps(content["vocab"]), encoding="utf-8")
    merges = [" ".join(pair) for pair in content["merges"]]
    (run / "vocab.bpe").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    return run


def bits(folder: Path) -> dict[str, Any]:
    state = GPT2LMHeadModel.from_pretrained(folder).state_dict()
    return {name: tensor.view(torch.int32) for name, tensor in state.items()}


def test_gpt_2_simple(run1: Path, small_tokenizer: Tokenizer, tmp_path: Path) -> None:
    """The latest checkpoint becomes a folder that transformers loads, every bit as it was, with the same tokenizer."""
    result = tunesmith.import_model(run1, out=tmp_path / "out")
    expected = bits(tmp_path / "source")
    expected["transformer.wpe.weight"][0, :4] = torch.tensor([-(1 << 31), 1, 0x7F7FFFFF, 0x00800000])
    found = bits(tmp_path / "out")
    assert set(found) == set(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert (result["activation_function"], result["vocab_size"]) == ("gelu_new", 300)
    text = "the lamp burns; no ship"
    made = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    assert made.encode(text).ids == small_tokenizer.encode(text).ids


def test_a_named_checkpoint(run1: Path, tmp_path: Path) -> None:
    """`model-100`, with or without `.index`, is taken instead of the latest."""
    for number, name in enumerate(("model-100", "model-100.index")):
        tunesmith.import_model(run1 / name, out=tmp_path / f"out{number}")
        assert not GPT2LMHeadModel.from_pretrained(tmp_path / f"out{number}").transformer.wpe.weight.any()


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("model-500.index", lambda data: data[:-1], "model-500.index is no index"),
        ("model-500.index", lambda data: data[:100] + bytes([data[100] ^ 1]) + data[101:], "checksum"),
        ("model-500.data-00000-of-00001", lambda data: data[: len(data) // 2], "ends before 'model/"),
        ("model-500.data-00000-of-00001", None, "No such file"),
        ("hparams.json", lambda _: b'{"n_vocab": 300}', "does not say the model's shape"),
        ("hparams.json", lambda data: data.replace(b"64", b"65"), r"wpe.weight is \[64, 32\]"),
        ("hparams.json", lambda data: data.replace(b'"n_layer": 2', b'"n_layer": 3'), "lacks the weight"),
        ("checkpoint", None, "holds 2 TensorFlow checkpoints"),
        ("vocab.bpe", lambda _: b"#version\nx y z\n", "tokenizer .* cannot be read"),
    ],
)
def test_damage_is_named(
    run1: Path, tmp_path: Path, file: str, damage: Callable[[bytes], bytes] | None, message: str
) -> None:
    """Whatever is missing, cut or changed is said, and nothing is written."""
    path = run1 / file
    if damage:
        path.write_bytes(damage(path.read_bytes()))
    else:
        path.unlink()
    with pytest.raises(UserError, match=message):
        tunesmith.import_model(run1, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_crc32c_of_the_standard() -> None:
    """The check value of CRC-32C, masked as LevelDB does."""
    expected = ((0xE3069283 >> 15 | 0xE3069283 << 17) + 0xA282EAD8) & 0xFFFFFFFF
    assert masked_crc32c(b"123456789") == expected
