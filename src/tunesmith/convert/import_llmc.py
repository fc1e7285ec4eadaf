"""llm.c's `.bin`: a header of 256 integers, then the weights, each kind of all layers together.

Version 1 is fp32, 3 is fp32 and 5 is bf16 with a vocabulary padded to a multiple of 128.
Reference: `write_model` in train_gpt2.py of the llm.c repository.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from tunesmith.convert.imported_model import BLOCK_PARTS, ForeignModel, expected_shapes, refuse_incomplete
from tunesmith.errors import UserError
from tunesmith.model.hf_config import parse_hf_config

MAGIC = 20240326
HEADER_INTEGERS, HEADER_BYTES = 256, 1024
DTYPES = {1: torch.float32, 3: torch.float32, 5: torch.bfloat16}
PADDED = (3, 5)


def is_llmc(path: Path) -> bool:
    """Whether a file begins as one."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) == MAGIC.to_bytes(4, "little")


def read_llmc(path: Path) -> ForeignModel:
    """Read one.

    Raises:
        UserError: if it is too short or too long, or of a version that is not known.
    """
    if path.stat().st_size < HEADER_BYTES:
        raise UserError("{path} ends in its header", hint="the file is incomplete; copy it again", path=path)
    header = np.fromfile(path, "<i4", HEADER_INTEGERS).tolist()
    version = header[1]
    if version not in DTYPES:
        raise UserError(
            "{path} is a checkpoint of llm.c in version {version}, and only {known} can be read",
            hint="write it again with a newer llm.c",
            path=path,
            version=version,
            known=", ".join(map(str, DTYPES)),
        )
    sizes = dict(zip(("n_positions", "vocab_size", "n_layer", "n_head", "n_embd"), header[2:7], strict=True))
    config = parse_hf_config(sizes, origin=str(path))
    in_file = replace(config, vocab_size=header[7] if version in PADDED else config.vocab_size)
    dtype = DTYPES[version]
    shapes = expected_shapes(in_file)
    expected = HEADER_BYTES + sum(torch.Size(shape).numel() for shape in shapes.values()) * dtype.itemsize
    if in_file.vocab_size < config.vocab_size or path.stat().st_size != expected:
        raise UserError(
            "{path} has {found:,} bytes, and its header asks for {expected:,}",
            hint="the file is incomplete or damaged; copy it again",
            path=path,
            found=path.stat().st_size,
            expected=expected,
        )
    values = torch.from_file(str(path), size=expected // dtype.itemsize, dtype=dtype)[HEADER_BYTES // dtype.itemsize :]
    state, place = {}, 0
    for name in _order(config.n_layer):
        count = torch.Size(shapes[name]).numel()
        state[name] = values[place : place + count].view(shapes[name])
        place += count
    refuse_incomplete(path, in_file, state)
    return ForeignModel("llm.c", config, state).cut_to(config.vocab_size)


def _order(n_layer: int) -> list[str]:
    return [
        "transformer.wte.weight",
        "transformer.wpe.weight",
        *(
            f"transformer.h.{layer}.{part}.{kind}"
            for part in BLOCK_PARTS
            for kind in ("weight", "bias")
            for layer in range(n_layer)
        ),
        "transformer.ln_f.weight",
        "transformer.ln_f.bias",
    ]
