"""GPU spec table: memory and speed as their makers state them, for plans on machines where they are not.

Sources: NVIDIA's architecture white papers and data sheets (Pascal to Blackwell): dense matrix products of 16-bit
    numbers summed in 32 bits, and memory bandwidth; its table of compute capabilities. For laptops, products at the
    highest boost clock that NVIDIA states: the power limit of a laptop may allow less.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from tunesmith.errors import UserError

MIB_PER_GIB = 1024


@dataclass(frozen=True)
class GPUSpeed:
    """What a GPU can do at most.

    Attributes:
        tflops: 10^12 operations a second, 16-bit products summed in 32 bits.
        gigabytes_per_s: of its memory.
    """

    tflops: float
    gigabytes_per_s: float


@dataclass(frozen=True)
class GPUSpec:
    """A model of GPU, with one of the amounts of memory it is sold with.

    Attributes:
        name: as it is sold; with its memory, unless that is the usual amount.
        memory_gib: built in.
        speed: None where no makers' number can be compared with those of the others.
        capability: CUDA compute capability.
    """

    name: str
    memory_gib: int
    speed: GPUSpeed | None
    capability: tuple[int, int]


def _card(name: str, memory_gib: int, tflops: float, gigabytes_per_s: float, capability: tuple[int, int]) -> GPUSpec:
    return GPUSpec(name, memory_gib, GPUSpeed(tflops, gigabytes_per_s), capability)


def _slow(name: str, memory_gib: int, capability: tuple[int, int]) -> GPUSpec:
    """A GPU without tensor cores, whose 16-bit products cannot be compared with the others'."""
    return GPUSpec(name, memory_gib, None, capability)


GPUS = (
    _slow("GTX 1050 Ti", 4, (6, 1)),
    _slow("GTX 1060", 6, (6, 1)),
    _slow("GTX 1060 3GB", 3, (6, 1)),
    _slow("GTX 1070", 8, (6, 1)),
    _slow("GTX 1070 Ti", 8, (6, 1)),
    _slow("GTX 1080", 8, (6, 1)),
    _slow("GTX 1080 Ti", 11, (6, 1)),
    _slow("GTX 1650", 4, (7, 5)),
    _slow("GTX 1650 SUPER", 4, (7, 5)),
    _slow("GTX 1660", 6, (7, 5)),
    _slow("GTX 1660 Ti", 6, (7, 5)),
    _slow("GTX 1660 SUPER", 6, (7, 5)),
    _slow("TITAN Xp", 12, (6, 1)),
    _slow("P40", 24, (6, 1)),
    _slow("P100", 16, (6, 0)),
    _slow("P100 12GB", 12, (6, 0)),
    _card("RTX 2060", 6, 25.8, 336, (7, 5)),
    _card("RTX 2060 12GB", 12, 28.7, 336, (7, 5)),
    _card("RTX 2060 SUPER", 8, 28.7, 448, (7, 5)),
    _card("RTX 2070", 8, 29.9, 448, (7, 5)),
    _card("RTX 2070 SUPER", 8, 36.2, 448, (7, 5)),
    _card("RTX 2080", 8, 40.3, 448, (7, 5)),
    _card("RTX 2080 SUPER", 8, 44.6, 496, (7, 5)),
    _card("RTX 2080 Ti", 11, 53.8, 616, (7, 5)),
    _card("TITAN RTX", 24, 130.5, 672, (7, 5)),
    _card("TITAN V", 12, 110, 653, (7, 0)),
    _card("Quadro RTX 6000", 24, 130.5, 672, (7, 5)),
    _card("Quadro RTX 8000", 48, 130.5, 672, (7, 5)),
    _card("T4", 16, 65, 320, (7, 5)),
    _card("V100", 16, 125, 900, (7, 0)),
    _card("V100 32GB", 32, 125, 900, (7, 0)),
    _card("V100 PCIe", 16, 112, 900, (7, 0)),
    _card("V100 PCIe 32GB", 32, 112, 900, (7, 0)),
    _card("RTX 3050", 8, 18.2, 224, (8, 6)),
    _card("RTX 3050 6GB", 6, 13.5, 168, (8, 6)),
    _card("RTX 3060", 12, 25.5, 360, (8, 6)),
    _card("RTX 3060 8GB", 8, 25.5, 240, (8, 6)),
    _card("RTX 3060 Ti", 8, 32.4, 448, (8, 6)),
    _card("RTX 3070", 8, 40.6, 448, (8, 6)),
    _card("RTX 3070 Ti", 8, 43.5, 608, (8, 6)),
    _card("RTX 3080", 10, 59.5, 760, (8, 6)),
    _card("RTX 3080 12GB", 12, 61.3, 912, (8, 6)),
    _card("RTX 3080 Ti", 12, 68.2, 912, (8, 6)),
    _card("RTX 3090", 24, 71.0, 936, (8, 6)),
    _card("RTX 3090 Ti", 24, 80.0, 1008, (8, 6)),
    _card("RTX 3050 Laptop", 4, 14.3, 192, (8, 6)),
    _card("RTX 3050 Ti Laptop", 4, 17.4, 192, (8, 6)),
    _card("RTX 3060 Laptop", 6, 26.2, 336, (8, 6)),
    _card("RTX 3070 Laptop", 8, 33.2, 448, (8, 6)),
    _card("RTX 3070 Ti Laptop", 8, 35.0, 448, (8, 6)),
    _card("RTX 3080 Laptop", 8, 42.0, 448, (8, 6)),
    _card("RTX 3080 Laptop 16GB", 16, 42.0, 448, (8, 6)),
    _card("RTX 3080 Ti Laptop", 16, 47.2, 512, (8, 6)),
    _card("RTX A2000", 6, 31.9, 288, (8, 6)),
    _card("RTX A2000 12GB", 12, 31.9, 288, (8, 6)),
    _card("RTX A4000", 16, 76.7, 448, (8, 6)),
    _card("RTX A5000", 24, 111.1, 768, (8, 6)),
    _card("RTX A6000", 48, 154.8, 768, (8, 6)),
    _card("A10", 24, 125, 600, (8, 6)),
    _card("A10G", 24, 70, 600, (8, 6)),
    _card("A30", 24, 165, 933, (8, 0)),
    _card("A40", 48, 149.7, 696, (8, 6)),
    _card("A100", 40, 312, 1555, (8, 0)),
    _card("A100 80GB", 80, 312, 2039, (8, 0)),
    _card("A100 PCIe 80GB", 80, 312, 1935, (8, 0)),
    _card("L4", 24, 121, 300, (8, 9)),
    _card("L40", 48, 181, 864, (8, 9)),
    _card("L40S", 48, 362, 864, (8, 9)),
    _card("RTX 4060", 8, 30.2, 272, (8, 9)),
    _card("RTX 4060 Ti", 8, 44.1, 288, (8, 9)),
    _card("RTX 4060 Ti 16GB", 16, 44.1, 288, (8, 9)),
    _card("RTX 4070", 12, 58.3, 504, (8, 9)),
    _card("RTX 4070 SUPER", 12, 71.0, 504, (8, 9)),
    _card("RTX 4070 Ti", 12, 80.2, 504, (8, 9)),
    _card("RTX 4070 Ti SUPER", 16, 88.2, 672, (8, 9)),
    _card("RTX 4080", 16, 97.5, 717, (8, 9)),
    _card("RTX 4080 SUPER", 16, 104.4, 736, (8, 9)),
    _card("RTX 4090", 24, 165.2, 1008, (8, 9)),
    _card("RTX 4090 D", 24, 147.1, 1008, (8, 9)),
    _card("RTX 4050 Laptop", 6, 24.3, 192, (8, 9)),
    _card("RTX 4060 Laptop", 8, 29.1, 256, (8, 9)),
    _card("RTX 4070 Laptop", 8, 40.1, 256, (8, 9)),
    _card("RTX 4080 Laptop", 12, 67.7, 432, (8, 9)),
    _card("RTX 4090 Laptop", 16, 79.4, 576, (8, 9)),
    _card("RTX 6000 Ada", 48, 364.2, 960, (8, 9)),
    _card("RTX 5050", 8, 26.3, 320, (12, 0)),
    _card("RTX 5060", 8, 38.4, 448, (12, 0)),
    _card("RTX 5060 Ti", 16, 47.4, 448, (12, 0)),
    _card("RTX 5060 Ti 8GB", 8, 47.4, 448, (12, 0)),
    _card("RTX 5070", 12, 61.7, 672, (12, 0)),
    _card("RTX 5070 Ti", 16, 87.9, 896, (12, 0)),
    _card("RTX 5080", 16, 112.6, 960, (12, 0)),
    _card("RTX 5090", 32, 209.5, 1792, (12, 0)),
    _card("RTX 5060 Laptop", 8, 33.2, 384, (12, 0)),
    _card("RTX 5070 Laptop", 8, 43.3, 384, (12, 0)),
    _card("RTX 5070 Ti Laptop", 12, 52.3, 672, (12, 0)),
    _card("RTX 5080 Laptop", 16, 70.3, 896, (12, 0)),
    _card("RTX 5090 Laptop", 24, 90.7, 896, (12, 0)),
    _card("H100", 80, 989, 3350, (9, 0)),
    _card("H100 PCIe", 80, 756, 2000, (9, 0)),
    _card("H100 NVL", 94, 835, 3900, (9, 0)),
    _card("H200", 141, 989, 4800, (9, 0)),
    _card("H200 NVL", 141, 835, 4800, (9, 0)),
)
REFERENCE = "RTX 4070 Ti"
"""Whose speed is taken where only an amount of memory was named."""
MEMORY = re.compile(r"(?<![a-z0-9.])(\d+(?:\.\d+)?) ?(g(?:i?b)?|mi?b)\b")
FAMILY = re.compile(r"\b(nvidia|geforce|tesla|rtx|gtx|graphics|generation|gpu|with|design|hbm\d?e?|gddr\d?x?)\b")
FORM = re.compile(r"\b(pcie|sxm\d?|nvl)\b")
LAPTOP = re.compile(r"\b(laptop|mobile|max ?[qp])\b|(?<=\d{4})m\b")


@dataclass(frozen=True)
class _Name:
    """What the name of a GPU says.

    Attributes:
        model: without maker, family and spaces, in small letters.
        is_laptop: whether it is the one for laptops, which is another GPU.
        form: "", "pcie" or "nvl", which have other speeds; sxm, the usual one of its models, is "".
        memory_gib: None where the name does not tell.
    """

    model: str
    is_laptop: bool
    form: str
    memory_gib: float | None


def find_gpu(name: str, memory_gib: float | None = None) -> GPUSpec:
    """Find a GPU, however it is written: "4070ti", "NVIDIA GeForce RTX 4070 Ti", "A100-80G".

    Args:
        name: may tell the memory.
        memory_gib: where it is known otherwise.

    Returns:
        The one with that memory; where there is none, the nearest of the same model.

    Raises:
        UserError: naming the nearest ones.
    """
    found = lookup_gpu(name, memory_gib)
    if found is not None:
        return found
    names = list(dict.fromkeys(_near(_read(name))))
    raise UserError(
        "unknown GPU: --gpu {name}",
        hint="did you mean {names}? or name its memory: --vram 12GB"
        if names
        else "name it like RTX 4070 Ti, RTX 3060 8GB or A100 80GB; or only its memory: --vram 12GB",
        name=name,
        names=", ".join(names),
    )


def lookup_gpu(name: str, memory_gib: float | None = None) -> GPUSpec | None:
    """The GPU that a person or a driver calls so; None where it is not in the list.

    Args:
        name: as NVML, torch, nvidia-smi and shops write it.
        memory_gib: measured, where the name does not tell it: of several the nearest counts.
    """
    wanted = _read(name)
    same = [card for card in GPUS if _is_model(card, wanted)]
    asked = memory_gib if wanted.memory_gib is None else wanted.memory_gib

    def distance(card: GPUSpec) -> tuple[float, bool]:
        apart = 0.0 if asked is None else abs(card.memory_gib - asked)
        return apart, _read(card.name).form != wanted.form

    if asked is None:
        return min(same, key=lambda card: _read(card.name).form != wanted.form, default=None)
    return min(same, key=distance, default=None)


def memory_sizes(card: GPUSpec) -> list[int]:
    """With how many GiB a model of GPU is sold, as far as the list knows."""
    return sorted({other.memory_gib for other in GPUS if _is_model(other, _read(card.name))})


def memory_in_name(name: str) -> float | None:
    """GiB, where a GPU's name tells them: "RTX 3060 8GB"."""
    return _read(name).memory_gib


def _is_model(card: GPUSpec, wanted: _Name) -> bool:
    own = _read(card.name)
    return (own.model, own.is_laptop) == (wanted.model, wanted.is_laptop)


def _near(wanted: _Name) -> Iterator[str]:
    """Names that may have been meant, for a mistake."""
    from difflib import get_close_matches

    models = [_read(card.name).model for card in GPUS]
    near = get_close_matches(wanted.model, models, n=3, cutoff=0.6)
    yield from (card.name for one in near for card, model in zip(GPUS, models, strict=True) if model == one)


def _read(name: str) -> _Name:
    words = name.lower().replace("titan rtx", "titanrtx")
    words = re.sub(r"[^a-z0-9.]+", " ", words)
    words = re.sub(r"(rtx|gtx|geforce)(?=\d)", r"\1 ", words)
    words = re.sub(r"(?<=\d)(ti|super|laptop|mobile)", r" \1", words)
    words = re.sub(r"\b(ti|super)(?=super|\d|laptop)", r"\1 ", words)
    memory = MEMORY.search(words)
    gib = None if memory is None else float(memory[1]) / (1 if memory[2].startswith("g") else MIB_PER_GIB)
    if re.search(r"\bmig\b", words):
        return _Name(words.replace(" ", ""), is_laptop=False, form="", memory_gib=None)  # a part of a GPU is another
    form = FORM.search(words)
    named = "" if form is None or form[1].startswith("sxm") else form[1]
    is_laptop = LAPTOP.search(words) is not None
    for part in (MEMORY, FORM, LAPTOP, FAMILY):
        words = part.sub(" ", words)
    return _Name(words.replace(" ", ""), is_laptop=is_laptop, form=named, memory_gib=gib)
