"""Memory and disks: what is free, what uses it, and whether the named model can be trained here."""

from collections.abc import Iterator

from tunesmith.doctor.facts import DiskFacts, Facts, GPUFacts, ModelFacts
from tunesmith.doctor.fixes import Check, Fix, end_process, set_variable
from tunesmith.i18n import say
from tunesmith.planning.gpu_processes import GPUProcess, GPUState
from tunesmith.planning.hardware import CONTEXT_BYTES, GIB, memory_budget

OTHERS_BYTES = GIB
"""Memory of a GPU that other programs may use before it is worth a warning."""
MIN_GPU_BYTES = int(2.5 * GIB)
"""Of the smallest GPT-2 with everything in fp32."""
MIN_HOST_BYTES, GOOD_HOST_BYTES = 2 * GIB, 4 * GIB
MIN_DISK_BYTES, GOOD_DISK_BYTES = GIB, 5 * GIB
"""A small run; a run of GPT-2 (124M) with two checkpoints."""
SMALL_FILES_BYTES = GIB
MAX_SHOWN = 3
PURPOSES = {"runs": "disk for runs", "text": "disk for text", "hub": "disk for models"}


def check_resources(facts: Facts) -> Iterator[Check]:
    """GPU, host, disks."""
    for gpu in facts.driver.gpus[:1]:
        yield _gpu_memory(facts, gpu)
    yield _host_memory(facts)
    yield from (_disk(facts, disk) for disk in facts.disks)


def _gpu_memory(facts: Facts, gpu: GPUFacts) -> Check:
    used = sum(process.bytes or 0 for process in gpu.processes)
    finding = say("{free:.1f} of {total:.1f} GiB are free", free=gpu.free_bytes / GIB, total=gpu.total_bytes / GIB)
    finding += _users(gpu)
    state = GPUState(gpu.name, gpu.total_bytes, gpu.free_bytes, gpu.has_display, gpu.processes)
    usable = memory_budget(state).value - CONTEXT_BYTES
    largest = gpu.processes[0] if gpu.processes else None
    fix = end_process(facts, largest.pid) if largest else Fix(say("close other programs that use the GPU"))
    if usable < MIN_GPU_BYTES:
        return Check("GPU memory", "fail", finding, fix)
    if used > OTHERS_BYTES or (largest is not None and largest.bytes is None and gpu.free_bytes < gpu.total_bytes / 2):
        return Check("GPU memory", "warn", finding, fix)
    return Check("GPU memory", "ok", finding)


def _users(gpu: GPUFacts) -> str:
    if not gpu.processes:
        return ""
    users = say("; in use by {programs}", programs=", ".join(map(_user, gpu.processes[:MAX_SHOWN])))
    more = len(gpu.processes) - MAX_SHOWN
    users += say(" and {count} more", count=more) if more > 0 else ""
    return users + (say(" (a screen is attached)") if gpu.has_display else "")


def _user(process: GPUProcess) -> str:
    used = "" if process.bytes is None else f" {process.bytes / GIB:.1f} GiB"
    return f"{process.name} (PID {process.pid}){used}"


def _host_memory(facts: Facts) -> Check:
    free, total = facts.free_memory_bytes, facts.memory_bytes
    finding = say("{free:.1f} of {total:.1f} GiB are free", free=free / GIB, total=total / GIB)
    if free >= GOOD_HOST_BYTES:
        return Check("memory", "ok", finding)
    fix = say("close other programs")
    if facts.system.kind == "wsl":
        fix = say(
            "give WSL more: [wsl2] and memory=16GB in {file}, then in PowerShell: wsl --shutdown",
            file=r"%UserProfile%\.wslconfig",
        )
    return Check("memory", "fail" if free < MIN_HOST_BYTES else "warn", finding, Fix(fix))


def _disk(facts: Facts, disk: DiskFacts) -> Check:
    name = PURPOSES[disk.purpose]
    finding = say("{free:.1f} GiB are free in {folder}", free=disk.free_bytes / GIB, folder=disk.folder)
    elsewhere = _elsewhere(facts, disk)
    if not disk.is_writable:
        return Check(name, "fail", say("{folder} may not be written to", folder=disk.folder), Fix(elsewhere))
    more_space = Fix(say("free some space, or {elsewhere}", elsewhere=elsewhere))
    if disk.free_bytes < MIN_DISK_BYTES:
        return Check(name, "fail", finding, more_space)
    if disk.is_of_windows and disk.purpose == "runs":
        finding += say("; it is a drive of Windows, which WSL reads ten times as slowly")
        return Check(name, "warn", finding, Fix(say("work in the home folder of WSL: {command}", command="cd ~")))
    if disk.free_bytes < GOOD_DISK_BYTES:
        return Check(name, "warn", finding, more_space)
    return Check(name, "ok", finding)


def _elsewhere(facts: Facts, disk: DiskFacts) -> str:
    if disk.purpose == "runs":
        return say("set --out to another disk")
    variable = "TUNESMITH_CACHE" if disk.purpose == "text" else "HF_HOME"
    folder = r"D:\cache" if facts.system.kind == "windows" else "/another/disk"
    return say("keep it on another disk: {command}", command=set_variable(facts.system, variable, folder))


def check_model(facts: Facts) -> Iterator[Check]:
    """Memory and disk of a run of the named model."""
    model = facts.model
    if model is None:
        return
    if model.error:
        yield Check("model", "fail", model.error, Fix(say("use a preset, a folder, or a model that was downloaded")))
        return
    yield _model_memory(model)
    yield _model_disk(facts, model)


def _model_memory(model: ModelFacts) -> Check:
    fix = Fix(f"tunesmith plan --model {model.name} --lora-r 8")
    if model.memory_bytes is None:
        finding = say("{name} does not fit: {refusal}", name=model.name, refusal=model.refusal)
        return Check("model", "fail", finding, fix)
    finding = say(
        "{name} needs {needed:.1f} of {budget:.1f} GiB on {where}",
        name=model.name,
        needed=model.memory_bytes / GIB,
        budget=model.budget_bytes / GIB,
        where=model.where,
    )
    if model.memory_bytes > model.budget_bytes:  # of the host's memory a part may be swapped out
        return Check("model", "fail", finding, fix)
    return Check("model", "ok", finding)


def _model_disk(facts: Facts, model: ModelFacts) -> Check:
    free = {disk.purpose: disk.free_bytes for disk in facts.disks}
    to_download = 0 if model.is_here else model.weights_bytes
    needed = model.disk_bytes / GIB
    finding = say("a run needs {needed:.1f} GiB, {free:.1f} are free", needed=needed, free=free["runs"] / GIB)
    if to_download:
        finding += say("; the download needs {needed:.1f}", needed=to_download / GIB)
    if free["runs"] < model.disk_bytes + SMALL_FILES_BYTES or free["hub"] < to_download:
        fix = say("free some space, set --out to another disk, or train only adapters: --lora-r 8")
        return Check("model's disk", "fail", finding, Fix(fix))
    return Check("model's disk", "ok", finding)
