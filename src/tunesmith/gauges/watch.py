"""A thread that looks at the machine every few seconds, so that training never waits for a driver.

What is measured of energy is that of the card where the run computes on one, else that of the processors: of the
whole device, whoever else uses it.
"""

import threading
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import psutil

from tunesmith.gauges.card import CardEnergy, CardGauge, CardReading
from tunesmith.gauges.processor import ProcessorEnergy

EVERY_S = 2.0


@dataclass(frozen=True)
class MachineReading:
    """What the machine is doing.

    Attributes:
        cpu_percent: of all cores, since the reading before.
        process_memory_bytes: resident, of this process.
        host_memory_used_bytes: by all programs.
        host_memory_bytes: built in.
        gpu_utilisation_percent: and what follows: of the card that is computed on; None without one.
        gpu_memory_used_bytes: by all programs.
        gpu_temperature_celsius: of the chip.
        gpu_power_watts: drawn now.
        energy_joules: of the device that computes, since the watch began; None where nothing tells it.
    """

    cpu_percent: float
    process_memory_bytes: int
    host_memory_used_bytes: int
    host_memory_bytes: int
    gpu_utilisation_percent: float | None
    gpu_memory_used_bytes: int | None
    gpu_temperature_celsius: float | None
    gpu_power_watts: float | None
    energy_joules: float | None


NO_CARD = CardReading(None, None, None, None, None)


class MachineWatch:
    """Looks at the machine until the block ends.

    Args:
        card: UUID of the card that is computed on; empty where it is the processor.
        every_s: time between two looks.
    """

    def __init__(self, card: str = "", *, every_s: float = EVERY_S) -> None:
        self._card, self._every_s = card, every_s
        self._lock = threading.Lock()
        self._unseen: MachineReading | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="machine watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def news(self) -> MachineReading | None:
        """The latest reading, if there is one since the last time."""
        with self._lock:
            news, self._unseen = self._unseen, None
        return news

    def _work(self) -> None:
        gauge = CardGauge.open(self._card) if self._card else None
        processors = ProcessorEnergy()
        card_energy = CardEnergy()
        if gauge:
            card_energy.see(gauge.read(), time.monotonic())
        psutil.cpu_percent()  # the first answer has no time before it to speak of
        try:
            while not self._ended.wait(self._every_s):
                card = gauge.read() if gauge else NO_CARD
                joules = card_energy.see(card, time.monotonic()) if gauge else processors.read_joules()
                reading = _reading(card, joules)
                with self._lock:
                    self._unseen = reading
        except (OSError, psutil.Error):
            return  # a machine that does not tell what it does is still good to train on
        finally:
            if gauge:
                gauge.close()


def _reading(card: CardReading, joules: float | None) -> MachineReading:
    memory = psutil.virtual_memory()
    return MachineReading(
        cpu_percent=psutil.cpu_percent(),
        process_memory_bytes=psutil.Process().memory_info().rss,
        host_memory_used_bytes=memory.total - memory.available,
        host_memory_bytes=memory.total,
        gpu_utilisation_percent=card.utilisation_percent,
        gpu_memory_used_bytes=card.memory_used_bytes,
        gpu_temperature_celsius=card.temperature_celsius,
        gpu_power_watts=card.power_watts,
        energy_joules=joules,
    )
