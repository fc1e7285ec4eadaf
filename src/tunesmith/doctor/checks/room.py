"""Memory, disks, and who else uses them."""

from collections.abc import Iterator

from tunesmith.doctor.check import Check, Remedy
from tunesmith.doctor.facts import CardFacts, DiskFacts, Facts
from tunesmith.doctor.remedies import end_process, set_variable
from tunesmith.messages.catalogue import say
from tunesmith.planning.gpu_processes import GPUProcess, GPUState
from tunesmith.planning.hardware import CONTEXT_BYTES, GIB, memory_budget

MUCH_BYTES = GIB
"""What another process may hold of a card before it is worth a warning."""
LEAST_CARD_BYTES = int(2.5 * GIB)
"""What the smallest GPT-2 takes with everything in fp32."""
LEAST_HOST_BYTES, GOOD_HOST_BYTES = 2 * GIB, 4 * GIB
LEAST_DISK_BYTES, GOOD_DISK_BYTES = GIB, 5 * GIB
"""A small run; a run of GPT-2 (124M) with two checkpoints."""
SHOWN = 3
PURPOSES = {"runs": "disk for runs", "text": "disk for text", "hub": "disk for models"}


def check_room(facts: Facts) -> Iterator[Check]:
    """Card, host, disks."""
    for card in facts.driver.cards[:1]:
        yield _card_memory(facts, card)
    yield _host_memory(facts)
    yield from (_disk(facts, disk) for disk in facts.disks)


def _card_memory(facts: Facts, card: CardFacts) -> Check:
    held = sum(neighbour.bytes or 0 for neighbour in card.neighbours)
    found = say(
        "{free:.1f} of {total:.1f} GiB are free", free=card.free_bytes / GIB, total=card.total_bytes / GIB
    ) + _holders(card)
    state = GPUState(card.name, card.total_bytes, card.free_bytes, card.has_display, card.neighbours)
    usable = memory_budget(state).value - CONTEXT_BYTES
    largest = card.neighbours[0] if card.neighbours else None
    remedy = end_process(facts, largest.pid) if largest else Remedy(say("close other programs that use the card"))
    if usable < LEAST_CARD_BYTES:
        return Check("card memory", "fail", found, remedy)
    if held > MUCH_BYTES or (largest is not None and largest.bytes is None and card.free_bytes < card.total_bytes / 2):
        return Check("card memory", "warn", found, remedy)
    return Check("card memory", "ok", found)


def _holders(card: CardFacts) -> str:
    if not card.neighbours:
        return ""
    shown = ", ".join(map(_holder, card.neighbours[:SHOWN]))
    more = len(card.neighbours) - SHOWN
    screen = say(" (a screen is attached)") if card.has_display else ""
    return (
        say("; in use by {programs}", programs=shown)
        + (say(" and {count} more", count=more) if more > 0 else "")
        + screen
    )


def _holder(neighbour: GPUProcess) -> str:
    held = "" if neighbour.bytes is None else f" {neighbour.bytes / GIB:.1f} GiB"
    return f"{neighbour.name} (PID {neighbour.pid}){held}"


def _host_memory(facts: Facts) -> Check:
    free, total = facts.free_memory_bytes, facts.memory_bytes
    found = say("{free:.1f} of {total:.1f} GiB are free", free=free / GIB, total=total / GIB)
    if facts.system.kind == "wsl" and free < GOOD_HOST_BYTES:
        remedy = Remedy(
            say(
                "give WSL more: [wsl2] and memory=16GB in {file}, then in PowerShell: wsl --shutdown",
                file=r"%UserProfile%\.wslconfig",
            )
        )
    else:
        remedy = Remedy(say("close other programs"))
    if free < LEAST_HOST_BYTES:
        return Check("memory", "fail", found, remedy)
    return Check(
        "memory", "ok" if free >= GOOD_HOST_BYTES else "warn", found, Remedy("") if free >= GOOD_HOST_BYTES else remedy
    )


def _disk(facts: Facts, disk: DiskFacts) -> Check:
    name = PURPOSES[disk.purpose]
    found = say("{free:.1f} GiB are free in {folder}", free=disk.free_bytes / GIB, folder=disk.folder)
    if not disk.is_writable:
        return Check(
            name, "fail", say("{folder} may not be written to", folder=disk.folder), Remedy(_elsewhere(facts, disk))
        )
    if disk.free_bytes < LEAST_DISK_BYTES:
        return Check(name, "fail", found, Remedy(say("make room, or {elsewhere}", elsewhere=_elsewhere(facts, disk))))
    if disk.is_of_windows and disk.purpose == "runs":
        return Check(
            name,
            "warn",
            found + say("; it is a drive of Windows, which WSL reads ten times as slowly"),
            Remedy(say("work in the home folder of WSL: {command}", command="cd ~")),
        )
    if disk.free_bytes < GOOD_DISK_BYTES:
        return Check(name, "warn", found, Remedy(say("make room, or {elsewhere}", elsewhere=_elsewhere(facts, disk))))
    return Check(name, "ok", found)


def _elsewhere(facts: Facts, disk: DiskFacts) -> str:

    if disk.purpose == "runs":
        return say("name an --out on another disk")
    variable = "TUNESMITH_CACHE" if disk.purpose == "text" else "HF_HOME"
    folder = r"D:\cache" if facts.system.kind == "windows" else "/another/disk"
    return say("keep it on another disk: {command}", command=set_variable(facts.system, variable, folder))
