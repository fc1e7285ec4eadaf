"""What stands around torch: compilers, the CUDA toolkit, packages, the tokenizer, the hub."""

from collections.abc import Iterator

from tunesmith.backends import Device, resolve_attention
from tunesmith.doctor.check import Check, Remedy, Status
from tunesmith.doctor.facts import DeviceFacts, Facts
from tunesmith.doctor.remedies import install_compiler, install_packages, set_variable, unset_variable
from tunesmith.messages.catalogue import say
from tunesmith.symptoms.recognise import recognise
from tunesmith.utils.device import native_dtype

CARD_COMPILER = "triton"
HEAD_DIM = 64
"""Of all GPT-2s that were published."""


def check_tools(facts: Facts) -> Iterator[Check]:
    """Compilers, toolkit, and what is computed with them."""
    yield _toolkit(facts)
    yield _compiler(facts)
    if facts.torch.device is not None:
        yield _attention(facts, facts.torch.device)


def _toolkit(facts: Facts) -> Check:
    if facts.cuda_on_library_path and facts.torch.cuda:
        return Check(
            "cuda toolkit",
            "warn",
            say(
                "LD_LIBRARY_PATH names {folder}, whose libraries are taken instead of those that torch brings",
                folder=facts.cuda_on_library_path[0],
            ),
            Remedy("unset LD_LIBRARY_PATH"),
        )
    here = facts.toolkit or say("none")
    return Check("cuda toolkit", "ok", say("{here}; not needed: torch brings its own CUDA and cuDNN", here=here))


def _compiler(facts: Facts) -> Check:
    """Triton for a card, a C++ compiler for the processor: without them everything works, uncompiled."""
    if facts.has_card:
        tried = facts.torch.triton
        if facts.triton and tried and not tried.works:
            return Check(
                "compiled training",
                "warn",
                say("{found}: training is not compiled, and slower", found=tried.found),
                install_compiler(facts),
            )
        if facts.triton and tried:
            return Check("compiled training", "ok", f"Triton {facts.triton}: {tried.found}")
        if facts.triton:
            return Check("compiled training", "ok", say("Triton {version} is here", version=facts.triton))
        package = "triton-windows" if facts.system.kind == "windows" else CARD_COMPILER
        return Check(
            "compiled training",
            "warn",
            say("Triton is not installed: training is not compiled, and slower"),
            install_packages(facts, package),
        )
    if facts.compiler:
        return Check("compiled training", "ok", say("{compiler} is here", compiler=facts.compiler))
    return Check("compiled training", "ok", say("no C++ compiler; on a processor it would win nothing"))


def _attention(facts: Facts, device: DeviceFacts) -> Check:
    """Which kernel computes attention, in the dtype that is taken there, for the heads that all GPT-2s have."""
    system = "win32" if facts.system.kind == "windows" else "linux"
    known = Device("cuda", system, device.capability, has_flash_attention=device.has_flash_attention)
    chosen = resolve_attention(known, native_dtype(device.capability).value, HEAD_DIM)
    return Check("attention", "ok", f"{chosen.value}: {chosen.reason}")


def check_packages(facts: Facts) -> Iterator[Check]:
    """Packages and the tokenizer's self-check."""
    wrong = [package for package in facts.packages if not package.fits and package.name != "torch"]
    missing = [package.name for package in wrong if not package.version]
    if wrong:
        shown = ", ".join(f"{package.name} {package.version or say('missing')} ({package.wanted})" for package in wrong)
        yield Check(
            "packages",
            "fail" if missing else "warn",
            shown,
            install_packages(facts, *(f"{package.name}{package.wanted}" for package in wrong)),
        )
    elif facts.packages:  # none in a source tree that is not installed
        yield Check("packages", "ok", say("{count} as they were tested", count=len(facts.packages)))
    if facts.tokenizer_error:
        yield Check(
            "tokenizer",
            "fail",
            say("the self-check failed: {error}", error=facts.tokenizer_error),
            install_packages(facts, "--force-reinstall", "tokenizers"),
        )
    elif facts.torch.was_tried:
        yield Check("tokenizer", "ok", say("text comes back as it went in"))


def check_hub(facts: Facts) -> Iterator[Check]:
    """Whether models can be downloaded; those that are here need no hub."""
    hub = facts.hub
    if not hub.was_tried:
        return
    needs_it = facts.model is not None and not facts.model.is_here and not facts.model.error
    bad: Status = "fail" if needs_it else "warn"
    if hub.is_offline:
        yield Check(
            "hub",
            "fail" if needs_it else "ok",
            say("HF_HUB_OFFLINE is set: nothing is downloaded"),
            Remedy(unset_variable(facts.system, "HF_HUB_OFFLINE") if needs_it else ""),
        )
    elif not hub.error:
        yield Check("hub", "ok", say("{endpoint} answers", endpoint=hub.endpoint))
    else:
        known = recognise(hub.error)
        found = say("{endpoint} cannot be reached ({error})", endpoint=hub.endpoint, error=hub.error)
        if not needs_it:
            found += say("; models that are on this machine work without it")
        proxy = set_variable(facts.system, "HTTPS_PROXY", "http://HOST:PORT")
        usual = say("check the network; behind a proxy: {command}", command=proxy)
        is_special = known is not None and known.symptom.name in {"certificate", "proxy-refused"}
        yield Check("hub", bad, found, Remedy(say(known.symptom.fix) if known and is_special else usual))
