"""Whether the named model can be trained here."""

from collections.abc import Iterator

from tunesmith.doctor.check import Check, Remedy
from tunesmith.doctor.facts import Facts, ModelFacts
from tunesmith.messages.catalogue import say
from tunesmith.planning.hardware import GIB

SMALL_BYTES = GIB
"""Checkpoints hold small files too."""


def check_model(facts: Facts) -> Iterator[Check]:
    """Memory and disk of a run of it; nothing where none was named."""
    model = facts.model
    if model is None:
        return
    if model.error:
        yield Check(
            "model", "fail", model.error, Remedy(say("name a preset, a folder, or a model that was downloaded"))
        )
        return
    yield _memory(model)
    yield _disk(facts, model)


def _memory(model: ModelFacts) -> Check:
    if model.memory_bytes is None:
        return Check(
            "model",
            "fail",
            say("{name} does not fit: {refusal}", name=model.name, refusal=model.refusal),
            Remedy(f"tunesmith plan --model {model.name} --lora-rank 8"),
        )
    found = say(
        "{name} takes {needed:.1f} of {budget:.1f} GiB on {where}",
        name=model.name,
        needed=model.memory_bytes / GIB,
        budget=model.budget_bytes / GIB,
        where=model.where,
    )
    if model.memory_bytes > model.budget_bytes:  # of a processor's memory a part may be swapped out
        return Check("model", "fail", found, Remedy(f"tunesmith plan --model {model.name} --lora-rank 8"))
    return Check("model", "ok", found)


def _disk(facts: Facts, model: ModelFacts) -> Check:
    runs = next(disk for disk in facts.disks if disk.purpose == "runs")
    hub = next(disk for disk in facts.disks if disk.purpose == "hub")
    to_download = 0 if model.is_here else model.weights_bytes
    found = say(
        "a run takes {needed:.1f} GiB, {free:.1f} are free", needed=model.disk_bytes / GIB, free=runs.free_bytes / GIB
    )
    if to_download:
        found += say("; the download takes {needed:.1f}", needed=to_download / GIB)
    if runs.free_bytes < model.disk_bytes + SMALL_BYTES or hub.free_bytes < to_download:
        return Check(
            "model's disk",
            "fail",
            found,
            Remedy(say("make room, name an --out on another disk, or learn only adapters: --lora-rank 8")),
        )
    return Check("model's disk", "ok", found)
