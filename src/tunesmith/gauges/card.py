"""What a card is doing right now, asked of its driver (NVML), without torch.

A driver that does not tell one thing may tell another: each value is None where it does not.
"""

from dataclasses import dataclass
from typing import Any, Self

from tunesmith.gauges.nvml import handle_of_uuid


@dataclass(frozen=True)
class CardReading:
    """One look at a card.

    Attributes:
        utilisation_percent: of the last moments in which something was computed.
        memory_used_bytes: by all programs.
        temperature_celsius: of the chip.
        power_watts: drawn now.
        energy_joules: drawn since the driver was loaded.
    """

    utilisation_percent: float | None
    memory_used_bytes: int | None
    temperature_celsius: float | None
    power_watts: float | None
    energy_joules: float | None


class CardGauge:
    """Looks at one card, as long as the driver is held open."""

    def __init__(self, nvml: Any, handle: Any) -> None:  # noqa: ANN401  the driver's module has no types
        self._nvml, self._handle = nvml, handle

    @classmethod
    def open(cls, identity: str) -> Self | None:
        """The gauge of a card by its UUID ("GPU-..."); None where no driver knows it."""
        try:
            import pynvml
        except ImportError:
            return None
        try:
            pynvml.nvmlInit()
        except (pynvml.NVMLError, OSError):
            return None
        try:
            return cls(pynvml, handle_of_uuid(pynvml, identity))
        except pynvml.NVMLError:
            pynvml.nvmlShutdown()
            return None

    def read(self) -> CardReading:
        """What the card is doing."""
        nvml = self._nvml
        utilisation = self._asked(nvml.nvmlDeviceGetUtilizationRates)
        memory = self._asked(nvml.nvmlDeviceGetMemoryInfo)
        milliwatts = self._asked(nvml.nvmlDeviceGetPowerUsage)
        millijoules = self._asked(nvml.nvmlDeviceGetTotalEnergyConsumption)
        celsius = self._asked(nvml.nvmlDeviceGetTemperature, nvml.NVML_TEMPERATURE_GPU)
        return CardReading(
            utilisation_percent=None if utilisation is None else float(utilisation.gpu),
            memory_used_bytes=None if memory is None else int(memory.used),
            temperature_celsius=None if celsius is None else float(celsius),
            power_watts=None if milliwatts is None else milliwatts / 1e3,
            energy_joules=None if millijoules is None else millijoules / 1e3,
        )

    def close(self) -> None:
        """Let go of the driver."""
        self._nvml.nvmlShutdown()

    def _asked(self, question: Any, *more: Any) -> Any:  # noqa: ANN401
        try:
            return question(self._handle, *more)
        except self._nvml.NVMLError:
            return None


class CardEnergy:
    """What a card has drawn: by the driver's own counter; where it has none (before Volta), by power times time."""

    def __init__(self) -> None:
        self._first_joules: float | None = None
        self._summed_joules = 0.0
        self._last_s: float | None = None

    def see(self, card: CardReading, now_s: float) -> float | None:
        """Joules since the first reading, up to this one; None where the driver tells nothing of it."""
        passed_s = 0.0 if self._last_s is None else now_s - self._last_s
        self._last_s = now_s
        if card.energy_joules is not None:
            if self._first_joules is None:
                self._first_joules = card.energy_joules
            return card.energy_joules - self._first_joules
        if card.power_watts is None:
            return None
        self._summed_joules += card.power_watts * passed_s
        return self._summed_joules
