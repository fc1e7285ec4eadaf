"""What a run may use: a card or processor, here or only named, with the room that is left for others.

Torch is asked only where a run is to happen here.
"""

import platform
import re
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import psutil

from tunesmith.errors import UserError
from tunesmith.machine import Choice, choose_device, choose_dtype, device_name
from tunesmith.planning.cards import REFERENCE, card_named, known_card
from tunesmith.planning.memory import Device
from tunesmith.planning.neighbours import CardState, Neighbour, card_state

if TYPE_CHECKING:
    import torch

GIB = 1 << 30
CONTEXT_BYTES = int(0.45 * GIB)
"""What the driver and its libraries take of a card before the first tensor."""
RESERVE_BYTES, RESERVE_SHARE = GIB // 4, 0.02
"""Left free of a card: fragments, and what grows while nobody looks."""
DISPLAY_BYTES = GIB // 2
"""Left free beside it where a screen is attached, or on Windows and WSL, whose driver swaps before it fails."""
HOST_SHARE = 0.9
"""Of the memory that is free on the host."""
CPU_FLOPS_PER_CORE = {"bfloat16": 1.5e11, "float32": 7e10}
"""Roughly, of a current core."""
CPU_BYTES_PER_S = 2e10
LINK_BYTES_PER_S = 1.2e10
"""Between host and card, of PCIe 4 with room for others."""
SHOWN_NEIGHBOURS = 3


@dataclass(frozen=True)
class Hardware:
    """What a run may use.

    Attributes:
        device: as torch calls it.
        kind: cpu or cuda.
        name: for people.
        precision: torch's name of the dtype of the arithmetic.
        budget: bytes a run may take, and why no more.
        host_bytes: free on the host.
        flops_per_s: of matrix products.
        bytes_per_s: of the memory.
        reasons: of device and precision.
        can_compile: whether there is what compiling needs; None where it cannot be known.
    """

    device: str
    kind: Device
    name: str
    precision: str
    budget: Choice[int]
    host_bytes: int
    flops_per_s: float
    bytes_per_s: float
    reasons: dict[str, str]
    can_compile: Choice[bool]

    @property
    def number_bytes(self) -> int:
        """Of what is computed with."""
        return 4 if self.precision == "float32" else 2


def hardware_here(device: str, precision: str) -> Hardware:
    """The machine at hand, as `--device` and `--precision` ask.

    Raises:
        UserError: if it has no such device or arithmetic.
    """
    from tunesmith.model.compiled import can_compile  # noqa: PLC0415  torch is needed from here on

    chosen = choose_device(device)
    dtype = choose_dtype(precision, chosen.value)
    named = str(dtype.value).removeprefix("torch.")
    reasons = {"device": chosen.reason, "precision": dtype.reason}
    host = psutil.virtual_memory().available
    compiles = can_compile(chosen.value)
    if chosen.value.type == "cpu":
        rate = CPU_FLOPS_PER_CORE[named] * (psutil.cpu_count(logical=False) or 1)
        budget = Choice(
            int(host * HOST_SHARE) + psutil.Process().memory_info().rss,
            f"{HOST_SHARE:.0%} of the {host / GIB:.1f} GiB that are free",
        )
        return Hardware(
            "cpu", "cpu", device_name(chosen.value), named, budget, host, rate, CPU_BYTES_PER_S, reasons, compiles
        )
    state = _state_of(chosen.value)
    card = known_card(state.name) or card_named(REFERENCE)
    return Hardware(
        device=str(chosen.value),
        kind="cuda",
        name=state.name,
        precision=named,
        budget=budget_of(state),
        host_bytes=host,
        flops_per_s=card.tflops * 1e12,
        bytes_per_s=card.gigabytes_per_s * 1e9,
        reasons=reasons,
        can_compile=compiles,
    )


def hardware_named(gpu: str | None, vram: str | None) -> Hardware:
    """A card that need not be here.

    Raises:
        UserError: if there is no such card, or the amount is none.
    """
    card = card_named(gpu or REFERENCE)
    total = bytes_of(vram) if vram else card.memory_gib * GIB
    left = CONTEXT_BYTES + RESERVE_BYTES + int(RESERVE_SHARE * total)
    budget = Choice(
        max(total - left, 0),
        f"{total / GIB:.1f} GiB less {CONTEXT_BYTES / GIB:.2f} for the driver and {(left - CONTEXT_BYTES) / GIB:.2f} "
        f"to spare; a screen on the card takes about {DISPLAY_BYTES / GIB:.1f} more",
    )
    speed = f"computed for an {card.name}" if gpu else f"speed as of an {card.name}: name yours with --gpu"
    return Hardware(
        device="cuda",
        kind="cuda",
        name=card.name if gpu else f"a card with {total / GIB:.0f} GiB",
        precision="bfloat16" if card.has_bf16 else "float16",
        budget=budget,
        host_bytes=int(psutil.virtual_memory().total * HOST_SHARE),
        flops_per_s=card.tflops * 1e12,
        bytes_per_s=card.gigabytes_per_s * 1e9,
        reasons={
            "device": speed,
            "precision": "bf16 is native there" if card.has_bf16 else "no native bf16 there: fp16 with a loss scaler",
        },
        can_compile=Choice(True, "taken to be possible there"),
    )


def hardware_of_driver() -> Hardware | None:
    """The first card of this machine as its driver sees it, without torch; None where there is none."""
    state = card_state(0)
    if state is None:
        return None
    card = known_card(state.name)
    return replace(
        hardware_named((card or card_named(REFERENCE)).name, None),
        device="cuda:0",
        name=state.name,
        budget=budget_of(replace(state, free_bytes=max(state.free_bytes - CONTEXT_BYTES, 0))),
        host_bytes=int(psutil.virtual_memory().available * HOST_SHARE),
        reasons={
            "device": "the driver sees it" if card else f"the driver sees it; its speed is taken for an {REFERENCE}'s",
            "precision": "bf16 is native there" if card is None or card.has_bf16 else "no native bf16 there",
        },
    )


def bytes_of(amount: str) -> int:
    """For example "12GB" (as cards are sold: GiB), "11.2 GiB", "8192MiB".

    Raises:
        UserError: if it is no amount of memory.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([gm])(?:i?b)?\s*", amount.lower())
    if not found or not float(found[1]):
        raise UserError(f"--vram {amount} is no amount of memory", hint="write it like 12GB or 8192MB")
    return int(float(found[1]) * (GIB if found[2] == "g" else GIB >> 10))


def budget_of(state: CardState) -> Choice[int]:
    """What a run may take of a card of which others have a part."""
    screens = state.has_display or sys.platform == "win32" or is_wsl()
    spare = RESERVE_BYTES + int(RESERVE_SHARE * state.total_bytes) + (DISPLAY_BYTES if screens else 0)
    reason = (
        f"{state.free_bytes / GIB:.1f} of {state.total_bytes / GIB:.1f} GiB are free, {spare / GIB:.2f} of them stay so"
    )
    if screens:
        reason += " (for the screen)"
    if state.neighbours:
        reason += f"; in use by {', '.join(map(_said, state.neighbours[:SHOWN_NEIGHBOURS]))}"
    return Choice(max(state.free_bytes - spare, 0), reason)


def is_wsl() -> bool:
    """Whether this Linux runs inside of Windows."""
    return "microsoft" in platform.release().lower()


def _said(neighbour: Neighbour) -> str:
    held = "" if neighbour.bytes is None else f" {neighbour.bytes / GIB:.1f} GiB"
    return f"{neighbour.name} (PID {neighbour.pid}){held}"


def _state_of(device: "torch.device") -> CardState:
    """What torch says is free on the device it calls so, and what the driver says of others on the same card."""
    import torch  # noqa: PLC0415

    free, total = torch.cuda.mem_get_info(device)
    said = card_state(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
    name = torch.cuda.get_device_name(device)
    if said is None:
        return CardState(name, total, free, has_display=False, neighbours=())
    return CardState(name, total, free, said.has_display, said.neighbours)
