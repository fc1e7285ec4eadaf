"""Cards by name: what their makers say they hold and do, for plans on machines where they are not.

Sources: NVIDIA's architecture white papers and data sheets (Pascal, Turing, Ampere, Ada Lovelace, Blackwell, Hopper):
    dense matrix products of 16-bit numbers summed in 32 bits, and memory bandwidth; its table of compute capabilities.
"""

import re
from dataclasses import dataclass

from tunesmith.errors import UserError


@dataclass(frozen=True)
class Card:
    """A model of card.

    Attributes:
        name: as it is sold.
        memory_gib: built in.
        tflops: 10^12 operations a second, 16-bit products summed in 32 bits; without tensor cores those of 32 bits.
        gigabytes_per_s: of its memory.
        capability: CUDA compute capability.
    """

    name: str
    memory_gib: int
    tflops: float
    gigabytes_per_s: float
    capability: tuple[int, int]


CARDS = (
    Card("GTX 1060 6GB", 6, 4.4, 192, (6, 1)),
    Card("RTX 2060", 6, 25.8, 336, (7, 5)),
    Card("RTX 2070", 8, 29.9, 448, (7, 5)),
    Card("RTX 2080", 8, 40.3, 448, (7, 5)),
    Card("RTX 2080 Ti", 11, 53.8, 616, (7, 5)),
    Card("T4", 16, 65, 320, (7, 5)),
    Card("V100", 16, 125, 900, (7, 0)),
    Card("RTX 3050", 8, 18.2, 224, (8, 6)),
    Card("RTX 3060", 12, 25.5, 360, (8, 6)),
    Card("RTX 3060 Ti", 8, 32.4, 448, (8, 6)),
    Card("RTX 3070", 8, 40.6, 448, (8, 6)),
    Card("RTX 3070 Ti", 8, 43.5, 608, (8, 6)),
    Card("RTX 3080", 10, 59.5, 760, (8, 6)),
    Card("RTX 3080 Ti", 12, 68.2, 912, (8, 6)),
    Card("RTX 3090", 24, 71.0, 936, (8, 6)),
    Card("RTX 3090 Ti", 24, 80.0, 1008, (8, 6)),
    Card("A10", 24, 125, 600, (8, 6)),
    Card("A100", 40, 312, 1555, (8, 0)),
    Card("L4", 24, 121, 300, (8, 9)),
    Card("RTX 4060", 8, 30.2, 272, (8, 9)),
    Card("RTX 4060 Ti", 8, 44.1, 288, (8, 9)),
    Card("RTX 4070", 12, 58.3, 504, (8, 9)),
    Card("RTX 4070 SUPER", 12, 71.0, 504, (8, 9)),
    Card("RTX 4070 Ti", 12, 80.2, 504, (8, 9)),
    Card("RTX 4070 Ti SUPER", 16, 88.2, 672, (8, 9)),
    Card("RTX 4080", 16, 97.5, 717, (8, 9)),
    Card("RTX 4080 SUPER", 16, 104.4, 736, (8, 9)),
    Card("RTX 4090", 24, 165.2, 1008, (8, 9)),
    Card("RTX 5060 Ti", 16, 47.4, 448, (12, 0)),
    Card("RTX 5070", 12, 61.7, 672, (12, 0)),
    Card("RTX 5070 Ti", 16, 87.9, 896, (12, 0)),
    Card("RTX 5080", 16, 112.6, 960, (12, 0)),
    Card("RTX 5090", 32, 209.5, 1792, (12, 0)),
    Card("H100", 80, 989, 3350, (9, 0)),
    Card("H200", 141, 989, 4800, (9, 0)),
)
REFERENCE = "RTX 4070 Ti"
"""Whose speed is taken where only an amount of memory was named."""


def card_named(name: str) -> Card:
    """Find a card, however it is written: "4070ti", "NVIDIA GeForce RTX 4070 Ti".

    Raises:
        UserError: naming the nearest ones.
    """
    wanted = _plain(name)
    for card in CARDS:
        if _plain(card.name) == wanted:
            return card
    from difflib import get_close_matches  # noqa: PLC0415  for a mistake only

    near = get_close_matches(wanted, [_plain(card.name) for card in CARDS], n=3, cutoff=0.5)
    names = [card.name for card in CARDS if _plain(card.name) in near]
    raise UserError(
        "--gpu {name} is no card I know",
        hint="did you mean {names}? or name its memory: --vram 12GB" if names else "name its memory: --vram 12GB",
        name=name,
        names=", ".join(names),
    )


def known_card(name: str) -> Card | None:
    """The card that a driver calls so; None where it is not in the list."""
    return next((card for card in CARDS if _plain(card.name) == _plain(name)), None)


def _plain(name: str) -> str:
    """Without maker, family and spaces, in small letters."""
    words = re.sub(r"[^a-z0-9]+", " ", name.lower().replace("super", " super").replace("ti", " ti"))
    family = r"\b(nvidia|geforce|tesla|rtx|gtx|pcie|sxm\d?|hbm\d?e?|nvl|\d+ ?gb)\b"
    return re.sub(family, "", words).replace(" ", "")
