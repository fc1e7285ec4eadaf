"""The card and NVIDIA's driver, before torch comes into it."""

from collections.abc import Iterator

from tunesmith.doctor.check import Check, Remedy
from tunesmith.doctor.cuda_releases import LEAST_DRIVER, major
from tunesmith.doctor.facts import Facts
from tunesmith.doctor.remedies import update_driver
from tunesmith.messages.catalogue import say
from tunesmith.planning.hardware import GIB

MISMATCH = "version mismatch"


def check_driver(facts: Facts) -> Iterator[Check]:
    """Whether a card is here, and whether its driver answers."""
    driver = facts.driver
    if not facts.has_card and not driver.version:
        yield _no_card(facts)
        return
    if driver.cards:
        yield Check("card", "ok", "; ".join(f"{card.name}, {card.total_bytes / GIB:.1f} GiB" for card in driver.cards))
    elif driver.version:
        yield Check("card", "warn", say("the driver is here, but sees no card"), _look_again(facts))
    else:
        yield Check("card", "ok", say("an NVIDIA card is in this machine"))
    if driver.version and major(driver.version) < LEAST_DRIVER[12]:
        yield Check(
            "driver",
            "fail",
            say(
                "{version} is too old: every current build of torch needs {least} or newer",
                version=driver.version,
                least=LEAST_DRIVER[12],
            ),
            update_driver(facts),
        )
    elif driver.version:
        yield Check("driver", "ok", driver.version)
    elif MISMATCH in driver.error.lower():
        yield Check(
            "driver",
            "fail",
            say("it was updated while its old version still runs ({error})", error=driver.error),
            Remedy(say("restart the machine")),
        )
    else:
        yield Check("driver", "fail", say("it does not answer: {error}", error=driver.error), update_driver(facts))


def _no_card(facts: Facts) -> Check:
    if facts.system.kind == "wsl":
        return Check(
            "card",
            "warn",
            say("WSL shows no NVIDIA card: everything is computed on the processor"),
            update_driver(facts),
        )
    if facts.cards_on_bus is None and facts.system.kind != "macos":
        return Check("card", "warn", say("no driver, and whether a card is here cannot be known"))
    return Check("card", "ok", say("no NVIDIA card: everything is computed on the processor"))


def _look_again(facts: Facts) -> Remedy:
    if facts.system.kind == "wsl":
        return Remedy("wsl --shutdown")
    return Remedy(say("look at {command}; where a container runs, start it with --gpus all", command="nvidia-smi"))
