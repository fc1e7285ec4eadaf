"""Cards by name: what their makers say they hold and do, for plans on machines where they are not.

Sources: NVIDIA's architecture white papers and data sheets (Turing, Ampere, Ada Lovelace, Blackwell, Hopper): dense
    matrix products of 16-bit numbers summed in 32 bits, and memory bandwidth.
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
        tflops: 10^12 operations a second, 16-bit products summed in 32 bits.
        gigabytes_per_s: of its memory.
        has_bf16: whether it multiplies bf16 natively.
    """

    name: str
    memory_gib: int
    tflops: float
    gigabytes_per_s: float
    has_bf16: bool = True


CARDS = (
    Card("RTX 2060", 6, 25.8, 336, has_bf16=False),
    Card("RTX 2070", 8, 29.9, 448, has_bf16=False),
    Card("RTX 2080", 8, 40.3, 448, has_bf16=False),
    Card("RTX 2080 Ti", 11, 53.8, 616, has_bf16=False),
    Card("T4", 16, 65, 320, has_bf16=False),
    Card("V100", 16, 125, 900, has_bf16=False),
    Card("RTX 3050", 8, 18.2, 224),
    Card("RTX 3060", 12, 25.5, 360),
    Card("RTX 3060 Ti", 8, 32.4, 448),
    Card("RTX 3070", 8, 40.6, 448),
    Card("RTX 3070 Ti", 8, 43.5, 608),
    Card("RTX 3080", 10, 59.5, 760),
    Card("RTX 3080 Ti", 12, 68.2, 912),
    Card("RTX 3090", 24, 71.0, 936),
    Card("RTX 3090 Ti", 24, 80.0, 1008),
    Card("A10", 24, 125, 600),
    Card("A100", 40, 312, 1555),
    Card("L4", 24, 121, 300),
    Card("RTX 4060", 8, 30.2, 272),
    Card("RTX 4060 Ti", 8, 44.1, 288),
    Card("RTX 4070", 12, 58.3, 504),
    Card("RTX 4070 SUPER", 12, 71.0, 504),
    Card("RTX 4070 Ti", 12, 80.2, 504),
    Card("RTX 4070 Ti SUPER", 16, 88.2, 672),
    Card("RTX 4080", 16, 97.5, 717),
    Card("RTX 4080 SUPER", 16, 104.4, 736),
    Card("RTX 4090", 24, 165.2, 1008),
    Card("RTX 5060 Ti", 16, 47.4, 448),
    Card("RTX 5070", 12, 61.7, 672),
    Card("RTX 5070 Ti", 16, 87.9, 896),
    Card("RTX 5080", 16, 112.6, 960),
    Card("RTX 5090", 32, 209.5, 1792),
    Card("H100", 80, 989, 3350),
    Card("H200", 141, 989, 4800),
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
