"""What makes a card slower than it was sold: heat, power limits, a narrow link."""

from collections.abc import Iterator

from tunesmith.doctor.check import Check, Remedy
from tunesmith.doctor.facts import CardFacts, Facts
from tunesmith.messages.catalogue import say

HOT_C = 84
"""Where consumer cards begin to lower their clock."""
MUCH_LESS_POWER = 0.75
FEW_LANES = 8
"""Below these, batches and offloading wait for the link."""


def check_card_health(facts: Facts) -> Iterator[Check]:
    """The first card, the one that is used."""
    for card in facts.driver.cards[:1]:
        if card.temperature_c is not None or card.power_limit_w is not None:
            yield _power(facts, card)
        if card.pcie_lanes is not None and card.most_pcie_lanes is not None:
            yield _link(card.pcie_lanes, card.most_pcie_lanes)


def _power(facts: Facts, card: CardFacts) -> Check:
    parts = []
    if card.temperature_c is not None:
        parts.append(f"{card.temperature_c} °C")
    limit, default = card.power_limit_w, card.default_power_limit_w
    if limit is not None and default is not None:
        parts.append(say("{limit:.0f} W allowed, {default:.0f} W by default", limit=limit, default=default))
    found = ", ".join(parts)
    if card.temperature_c is not None and card.temperature_c >= HOT_C:
        return Check(
            "power",
            "warn",
            say("{found}: it is hot and slows down", found=found),
            Remedy(
                say("clean its fans, open the case, or lower the limit: {command}", command=_limit(facts, card, 0.8))
            ),
        )
    if limit is not None and default is not None and limit < MUCH_LESS_POWER * default:
        return Check(
            "power",
            "warn",
            say("{found}: the limit makes it slow", found=found),
            Remedy(_limit(facts, card, 1.0)),
        )
    return Check("power", "ok", found)


def _limit(facts: Facts, card: CardFacts, share: float) -> str:
    watts = f"{(card.default_power_limit_w or 0) * share:.0f}"
    command = f"nvidia-smi -i {card.index} -pl {watts}"
    if facts.system.kind == "linux":
        return f"sudo {command}"
    return say("{command} in a PowerShell that was started as administrator", command=command)


def _link(lanes: int, most: int) -> Check:
    found = say("{lanes} of {most} PCIe lanes", lanes=lanes, most=most)
    if lanes < min(FEW_LANES, most):
        return Check(
            "pcie",
            "warn",
            say("{found}: batches and --states host wait for them", found=found),
            Remedy(say("put the card into the slot nearest to the processor")),
        )
    return Check("pcie", "ok", found)
