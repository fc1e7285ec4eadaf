"""The environment of torch: system, Python, compilers, the CUDA toolkit, packages, the tokenizer, the hub."""

from collections.abc import Iterator

from tunesmith.backends import Device, resolve_attention
from tunesmith.diagnostics.matcher import best_match
from tunesmith.doctor.facts import DeviceFacts, Facts
from tunesmith.doctor.fixes import Check, Fix, Status, install_compiler, install_packages, set_variable, unset_variable
from tunesmith.i18n import say
from tunesmith.utils.device import native_dtype

MIN_PYTHON = (3, 11)
KINDS = {"linux": "Linux", "windows": "Windows", "wsl": "WSL (Linux inside of Windows)", "macos": "macOS"}
HEAD_DIM = 64
"""Of all published GPT-2 models."""


def check_system(facts: Facts) -> Iterator[Check]:
    """Operating system and Python."""
    system = facts.system
    name = f"{KINDS[system.kind]}: {system.name}"
    if system.kind == "macos":
        yield Check("system", "warn", say("{found}: computes on the CPU only", found=name))
    else:
        yield Check("system", "ok", name)
    yield _python(facts)


def _python(facts: Facts) -> Check:
    system = facts.system
    name = f"{system.python}, {system.executable}"
    if system.python_bits != 64:
        finding = say("{found} has 32 bits, and torch has no build for it", found=name)
        fix = say("install the 64-bit Python from https://www.python.org/downloads/ and make a new environment")
        return Check("python", "fail", finding, Fix(fix))
    if tuple(map(int, system.python.split(".")[:2])) < MIN_PYTHON:
        fix = say("make an environment with a newer one: {command}", command="uv venv --python 3.12")
        return Check("python", "fail", say("{found} is older than 3.11", found=name), Fix(fix))
    if not system.is_isolated:
        command = "python3 -m venv .venv && source .venv/bin/activate"
        if system.kind == "windows":
            command = r"py -m venv .venv; .venv\Scripts\activate"
        fix = say("make one, and install tunesmith there: {command}", command=command)
        return Check("python", "warn", say("{found} is the system's own, without an environment", found=name), Fix(fix))
    return Check("python", "ok", name)


def check_tools(facts: Facts) -> Iterator[Check]:
    """Compilers, toolkit, and what is computed with them."""
    yield _toolkit(facts)
    yield _compiler(facts)
    if facts.torch.device is not None:
        yield _attention(facts, facts.torch.device)


def _toolkit(facts: Facts) -> Check:
    if facts.cuda_on_library_path and facts.torch.cuda:
        finding = say(
            "LD_LIBRARY_PATH names {folder}, whose libraries are loaded instead of those that torch brings",
            folder=facts.cuda_on_library_path[0],
        )
        return Check("cuda toolkit", "warn", finding, Fix("unset LD_LIBRARY_PATH"))
    toolkit = facts.toolkit or say("none")
    return Check("cuda toolkit", "ok", say("{here}; not needed: torch brings its own CUDA and cuDNN", here=toolkit))


def _compiler(facts: Facts) -> Check:
    """Triton for a GPU, a C++ compiler for the CPU: without them everything works, uncompiled."""
    if not facts.has_gpu:
        if facts.compiler:
            return Check("compiled training", "ok", say("{compiler} is installed", compiler=facts.compiler))
        return Check("compiled training", "ok", say("no C++ compiler; on a CPU compiling would not be faster"))
    tried = facts.torch.triton
    if not facts.triton:
        package = "triton-windows" if facts.system.kind == "windows" else "triton"
        finding = say("Triton is not installed: training is not compiled, and slower")
        return Check("compiled training", "warn", finding, install_packages(facts, package))
    if tried is None:
        return Check("compiled training", "ok", say("Triton {version} is installed", version=facts.triton))
    if tried.works:
        return Check("compiled training", "ok", f"Triton {facts.triton}: {tried.result}")
    finding = say("{found}: training is not compiled, and slower", found=tried.result)
    return Check("compiled training", "warn", finding, install_compiler(facts))


def _attention(facts: Facts, device: DeviceFacts) -> Check:
    """The attention kernel, in the dtype that is used there, for the head size that all GPT-2 models have."""
    system = "win32" if facts.system.kind == "windows" else "linux"
    kernels = Device("cuda", system, device.capability, has_flash_attention=device.has_flash_attention)
    choice = resolve_attention(kernels, native_dtype(device.capability).value, HEAD_DIM)
    return Check("attention", "ok", f"{choice.value}: {choice.reason}")


def check_packages(facts: Facts) -> Iterator[Check]:
    """Packages and the tokenizer's self-check."""
    wrong = [package for package in facts.packages if not package.fits and package.name != "torch"]
    if wrong:
        is_missing = any(not package.version for package in wrong)
        names = [f"{package.name} {package.version or say('missing')} ({package.required})" for package in wrong]
        fix = install_packages(facts, *(f"{package.name}{package.required}" for package in wrong))
        yield Check("packages", "fail" if is_missing else "warn", ", ".join(names), fix)
    elif facts.packages:  # none in a source tree that is not installed
        yield Check("packages", "ok", say("{count} as they were tested", count=len(facts.packages)))
    if facts.tokenizer_error:
        finding = say("the self-check failed: {error}", error=facts.tokenizer_error)
        yield Check("tokenizer", "fail", finding, install_packages(facts, "--force-reinstall", "tokenizers"))
    elif facts.torch.was_tried:
        yield Check("tokenizer", "ok", say("text comes back as it went in"))


def check_hub(facts: Facts) -> Iterator[Check]:
    """Whether models can be downloaded; those that are here need no hub."""
    hub = facts.hub
    if not hub.was_tried:
        return
    is_needed = facts.model is not None and not facts.model.is_here and not facts.model.error
    if hub.is_offline:
        fix = unset_variable(facts.system, "HF_HUB_OFFLINE") if is_needed else ""
        finding = say("HF_HUB_OFFLINE is set: nothing is downloaded")
        yield Check("hub", "fail" if is_needed else "ok", finding, Fix(fix))
    elif not hub.error:
        yield Check("hub", "ok", say("{endpoint} answers", endpoint=hub.endpoint))
    else:
        status: Status = "fail" if is_needed else "warn"
        finding = say("{endpoint} cannot be reached ({error})", endpoint=hub.endpoint, error=hub.error)
        if not is_needed:
            finding += say("; models that are on this machine work without it")
        yield Check("hub", status, finding, _reach_hub(facts))


def _reach_hub(facts: Facts) -> Fix:
    match = best_match(facts.hub.error)
    if match is not None and match.rule.name in {"certificate", "proxy-refused"}:
        return Fix(say(match.rule.fix))
    proxy = set_variable(facts.system, "HTTPS_PROXY", "http://HOST:PORT")
    return Fix(say("check the network; if it needs a proxy: {command}", command=proxy))
