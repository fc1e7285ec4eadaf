"""The installed torch: is it whole, and is it the build for this card and driver?"""

from collections.abc import Iterator

from tunesmith.diagnostics.matcher import best_match
from tunesmith.doctor.check import Check, Remedy
from tunesmith.doctor.cuda_releases import has_code_for, least_driver, major
from tunesmith.doctor.facts import Facts
from tunesmith.doctor.remedies import install_torch, unset_variable, update_driver
from tunesmith.messages.catalogue import say

NO_DEVICES = ("", "-1", "none", "NoDevFiles")
"""Values of CUDA_VISIBLE_DEVICES that hide every card."""


def check_torch(facts: Facts) -> Iterator[Check]:
    """From installed to seeing the card."""
    torch = facts.torch
    if not torch.version:
        yield Check("torch", "fail", say("it is not installed"), install_torch(facts))
        return
    if torch.error and torch.stage == "import":
        yield _broken(facts)
        return
    package = next((package for package in facts.packages if package.name == "torch"), None)
    if package and not package.fits:
        yield Check(
            "torch",
            "warn",
            say("{version} is not one that was tested ({wanted})", version=torch.version, wanted=package.wanted),
            install_torch(facts),
        )
    else:
        yield Check("torch", "ok", torch.version)
    yield from _build(facts)


def _broken(facts: Facts) -> Check:
    torch = facts.torch
    known = best_match(torch.error)
    found = say("{version} cannot be imported: {error}", version=torch.version, error=torch.error)
    if known and known.rule.name != "torch-missing":
        found += f" ({say(known.rule.cause)})"
    if known and known.rule.name == "windows-runtime-missing":
        return Check("torch", "fail", found, Remedy(say(known.rule.fix)))
    return Check("torch", "fail", found, install_torch(facts))


def _build(facts: Facts) -> Iterator[Check]:
    """Build against driver, and what came of it."""
    torch, driver = facts.torch, facts.driver
    if not facts.has_card:
        yield Check("torch build", "ok", _build_name(facts))
        return
    if torch.is_rocm:
        yield Check("torch build", "fail", say("it is built for AMD's cards (ROCm)"), install_torch(facts))
        return
    if not torch.cuda:
        yield Check(
            "torch build",
            "fail",
            say("{version} is a CPU-only build, and a card is here", version=torch.version),
            install_torch(facts),
        )
        return
    least = least_driver(torch.cuda)
    if driver.version and major(driver.version) < least:
        lower = install_torch(facts)
        yield Check(
            "torch build",
            "fail",
            say(
                "CUDA {cuda} needs driver {least} or newer, and {version} is installed",
                cuda=torch.cuda,
                least=least,
                version=driver.version,
            ),
            Remedy(
                say("{driver}; or take an older build: {build}", driver=update_driver(facts).text, build=lower.text)
                if lower.command or "--index-url" in lower.text
                else lower.text
            ),
        )
        return
    yield Check("torch build", "ok", _build_name(facts))
    if torch.was_tried:
        yield from _seen(facts)
    elif _is_hidden(facts):
        yield _hidden(facts)


def _build_name(facts: Facts) -> str:
    torch = facts.torch
    if torch.is_rocm:
        return say("for AMD's cards (ROCm)")
    return f"CUDA {torch.cuda}" if torch.cuda else say("for the processor only")


def _seen(facts: Facts) -> Iterator[Check]:
    torch = facts.torch
    if torch.device is None:
        if _is_hidden(facts):
            yield _hidden(facts)
            return
        why = torch.warning or torch.error or say("torch.cuda.is_available() is False")
        known = best_match(why)
        yield Check(
            "cuda",
            "fail",
            say("torch does not see the card: {why}", why=why),
            Remedy(say(known.rule.fix)) if known else update_driver(facts),
        )
        return
    device = torch.device
    capability = f"{device.capability[0]}.{device.capability[1]}"
    if not has_code_for(device.architectures, device.capability):
        yield Check(
            "cuda",
            "fail",
            say(
                "{name} has compute capability {capability}, and this build has code for {architectures} only",
                name=device.name,
                capability=capability,
                architectures=", ".join(device.architectures),
            ),
            install_torch(facts),
        )
        return
    yield Check(
        "cuda",
        "ok",
        say("torch sees {name}, compute capability {capability}", name=device.name, capability=capability),
    )


def _is_hidden(facts: Facts) -> bool:
    return facts.visible_devices is not None and facts.visible_devices.strip() in NO_DEVICES


def _hidden(facts: Facts) -> Check:
    return Check(
        "cuda",
        "fail",
        say('CUDA_VISIBLE_DEVICES is "{value}": every card is hidden', value=str(facts.visible_devices)),
        Remedy(unset_variable(facts.system, "CUDA_VISIBLE_DEVICES")),
    )
