"""All facts about this machine: everything that could fail is asked at once, in processes with time limits."""

import os
from dataclasses import fields, replace
from typing import Any

from tunesmith.doctor.children import Answer, Child
from tunesmith.doctor.facts import (
    CardFacts,
    DeviceFacts,
    DriverFacts,
    Facts,
    HubFacts,
    ModelFacts,
    ProductFacts,
    StepFacts,
    TorchFacts,
    TritonFacts,
)
from tunesmith.doctor.probes import system
from tunesmith.messages.catalogue import say
from tunesmith.model.hub import PRESETS, TINY
from tunesmith.planning.gpu_processes import GPUProcess

DRIVER_LIMIT_S = 5.0
TORCH_LIMIT_S = 60.0
"""A cold disk and a first start of CUDA take long."""
LIBRARIES_LIMIT_S = 30.0
HUB_LIMIT_S = 10.0
MODEL_LIMIT_S = 60.0
PROBES = "tunesmith.doctor.probes"


def gather(*, model: str | None, quick: bool) -> Facts:
    """Ask the machine.

    Args:
        model: whose needs are to be compared with what is here.
        quick: leave out what takes seconds: torch, the tokenizer and the hub are not tried.
    """
    driver = Child(f"{PROBES}.driver", limit_s=DRIVER_LIMIT_S)
    slow: dict[str, Child] = {}
    if not quick:
        asked_of_hub = PRESETS["gpt2"] if model is None or "/" not in model else model
        slow = {
            "torch": Child(f"{PROBES}.torch_device", limit_s=TORCH_LIMIT_S),
            "libraries": Child(f"{PROBES}.libraries", limit_s=LIBRARIES_LIMIT_S),
            "hub": Child(f"{PROBES}.hub", (asked_of_hub,), limit_s=HUB_LIMIT_S),
        }
    wants_plan = model is not None and model != TINY
    planned = Child(f"{PROBES}.model", (str(model),), limit_s=MODEL_LIMIT_S) if wants_plan else None
    memory_bytes, free_memory_bytes = system.memory()
    torch = system.torch_files()
    facts = Facts(
        system=system.system_facts(),
        cards_on_bus=system.cards_on_bus(),
        visible_devices=os.environ.get("CUDA_VISIBLE_DEVICES"),
        driver=driver_facts(driver.answer()),
        torch=torch,
        toolkit=system.toolkit(),
        cuda_on_library_path=system.cuda_on_library_path(),
        memory_bytes=memory_bytes,
        free_memory_bytes=free_memory_bytes,
        disks=system.disks(),
        compiler=system.compiler(),
        triton=system.installed_version("triton") or system.installed_version("triton-windows"),
        hub=HubFacts(was_tried=False, endpoint=""),
        packages=system.packages(),
        tokenizer_error="",
    )
    if slow:
        tokenizer = slow["libraries"].answer()
        facts = replace(
            facts,
            torch=tried(torch, slow["torch"].answer()),
            tokenizer_error=tokenizer.values.get("tokenizer_error", tokenizer.failure),
            hub=hub_facts(slow["hub"].answer()),
        )
    return replace(facts, model=model_facts(str(model), planned.answer())) if planned else facts


def quick_facts() -> Facts:
    """What can be known in half a second."""
    return gather(model=None, quick=True)


def driver_facts(answer: Answer) -> DriverFacts:
    """What the driver's probe wrote."""
    if "version" not in answer.values or (answer.failure and not answer.values.get("cards")):
        return DriverFacts(str(answer.values.get("version", "")), answer.failure or say("no answer"), ())
    cards = tuple(_card(values) for values in answer.values["cards"])
    return DriverFacts(str(answer.values["version"]), str(answer.values["error"]), cards)


def _card(values: dict[str, Any]) -> CardFacts:
    return CardFacts(
        **{
            **values,
            "neighbours": tuple(GPUProcess(**neighbour) for neighbour in values["neighbours"]),
            "capability": tuple(values["capability"]) if values["capability"] else None,
        }
    )


def tried(files: TorchFacts, answer: Answer) -> TorchFacts:
    """What torch's probe wrote, with what is known from files where it did not come so far."""
    if not files.version:
        return replace(files, was_tried=True)
    known = {field.name for field in fields(TorchFacts)}
    values: dict[str, Any] = {name: value for name, value in answer.values.items() if name in known}
    if device := values.get("device"):
        capability, architectures = tuple(device["capability"]), tuple(device["architectures"])
        values["device"] = DeviceFacts(device["name"], capability, architectures, device["has_flash_attention"])
    values["triton"] = TritonFacts(**values["triton"]) if values.get("triton") else None
    values["products"] = tuple(ProductFacts(**product) for product in values.get("products", ()))
    values["step"] = StepFacts(**values["step"]) if values.get("step") else None
    stage = str(values.pop("stage", "import"))
    return replace(files, **values, was_tried=True, stage=stage if answer.failure else "", error=answer.failure)


def hub_facts(answer: Answer) -> HubFacts:
    """What the hub's probe wrote."""
    values = answer.values
    return HubFacts(
        was_tried=True,
        endpoint=str(values.get("endpoint", "")),
        is_offline=bool(values.get("is_offline")),
        error=str(values.get("error") or answer.failure),
    )


def model_facts(name: str, answer: Answer) -> ModelFacts:
    """What the plan's probe wrote."""
    known = ModelFacts(**{"name": name, **answer.values})
    return replace(known, error=answer.failure) if answer.failure and not known.error else known
