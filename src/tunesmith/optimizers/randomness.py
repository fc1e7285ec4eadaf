"""Random bits that follow from the seed, the step and the parameter: a resumed run draws the same ones."""

from hashlib import blake2b

import torch
from torch import Tensor


def seed_for(*numbers: int) -> int:
    """A seed of 63 bits that these numbers decide."""
    name = ",".join(map(str, numbers)).encode()
    return int.from_bytes(blake2b(name, digest_size=8).digest(), "little") >> 1


def generator_for(device: torch.device, *numbers: int) -> torch.Generator:
    """A generator that these numbers decide."""
    return torch.Generator(device).manual_seed(seed_for(*numbers))


def random_31_bits(count: int, generator: torch.Generator) -> Tensor:
    """int32 [count], each from 0 to 2^31 - 1."""
    return torch.empty(count, dtype=torch.int32, device=generator.device).random_(generator=generator)
