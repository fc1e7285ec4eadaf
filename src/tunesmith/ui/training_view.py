"""Draw the live screen of a training, as a whole and a few times a second.

Events only store their numbers here; rich draws in its own thread. When the window has become narrower, terminals
wrap the lines of the old screen, so `ResizedLive` clears the rows that this adds and that rich would leave.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderResult
from rich.control import Control
from rich.live import Live
from rich.segment import ControlType
from rich.table import Table
from rich.text import Text

from tunesmith.i18n import say
from tunesmith.training.events import Evaluated, Event, PhaseStarted, RunEnded, Sampled, StepLogged, SystemMetricsLogged
from tunesmith.training.plan import TrainPlan
from tunesmith.ui.wrapping import printable
from tunesmith.utils import formatting

BARS = "\u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"
MOST_KEPT = 256


class LossCurve:
    """Loss curve of a whole run, in at most `MOST_KEPT` means of equally many values each."""

    def __init__(self) -> None:
        self._means: list[float] = []
        self._per_mean = 1
        self._open: list[float] = []

    def add(self, value: float) -> None:
        """Append a value."""
        self._open.append(value)
        if len(self._open) < self._per_mean:
            return
        self._means.append(sum(self._open) / len(self._open))
        self._open.clear()
        if len(self._means) == MOST_KEPT:
            pairs = zip(self._means[::2], self._means[1::2], strict=True)
            self._means = [(first + second) / 2 for first, second in pairs]
            self._per_mean *= 2

    def drawn(self, width: int) -> str:
        """Draw the curve in at most `width` characters."""
        values = self._means
        if len(values) > width:
            borders = [len(values) * number // width for number in range(width + 1)]
            values = [sum(values[start:end]) / (end - start) for start, end in pairwise(borders)]
        return sparkline(values)


def sparkline(values: Sequence[float]) -> str:
    """Draw each value as a bar between the lowest and the highest."""
    if not values:
        return ""
    low, high = min(values), max(values)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(BARS[round((value - low) * scale)] for value in values)


GAP = 2
BAR_WIDTH, SHORTEST_BAR = 28, 4
MOST_BARS = 60
WIDEST = 120
"""Cells; wider lines are not easier to read."""


@dataclass
class LiveScreen:
    """State of a run as events report it, and how it is drawn."""

    plan: TrainPlan
    losses: LossCurve = field(default_factory=LossCurve)
    is_stopping: Callable[[], bool] = lambda: False

    def __post_init__(self) -> None:
        self._step: StepLogged | None = None
        self._stepped_at_s = time.monotonic()
        self._machine: SystemMetricsLogged | None = None
        self._base: Evaluated | None = None
        self._before: Evaluated | None = None
        self._latest: Evaluated | None = None
        self._sample: Sampled | None = None
        self._doing = "stepping"
        self._drawn_width, self._drawn_rows = 1, 0

    def note(self, event: Event) -> None:
        """Store what an event reports."""
        if isinstance(event, StepLogged):
            self._step, self._stepped_at_s, self._doing = event, time.monotonic(), "stepping"
            self.losses.add(event.train_loss)
        elif isinstance(event, SystemMetricsLogged):
            self._machine = event
        elif isinstance(event, Evaluated):
            self._base = event if event.step == 0 else self._base
            self._before, self._latest = self._latest, event
        elif isinstance(event, Sampled):
            self._sample = event
        elif isinstance(event, PhaseStarted):
            self._doing = event.what
        elif isinstance(event, RunEnded):
            self._doing = "stopped" if event.result.interrupted else "done"

    def break_off(self) -> None:
        """Store that the run ended with an error."""
        self._doing = "stopped"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw for the available width."""
        names = self._names()
        name_width = max(map(cell_len, names.values()))
        room = min(options.max_width, WIDEST) - name_width - GAP
        rows = Table.grid(padding=(0, GAP))
        rows.add_column(style="bold", no_wrap=True, width=name_width)
        rows.add_column(no_wrap=True, overflow="ellipsis", width=room)
        for name, shown in self._rows(room):
            rows.add_row(names[name], shown)
        self._drawn_width, self._drawn_rows = name_width + GAP + room, rows.row_count
        yield rows

    def wrapped_rows(self, width: int) -> int:
        """How many more rows than drawn the screen needs in a window of this width."""
        return self._drawn_rows * ((self._drawn_width - 1) // max(width, 1))

    def _names(self) -> dict[str, str]:
        return {
            "phase": self._phase(),
            "loss": say("loss"),
            "validation": say("validation"),
            "learning": say("learning"),
            "speed": say("speed"),
            "memory": say("memory"),
            "machine": say("machine"),
            "writes": say("it writes"),
        }

    def _rows(self, room: int) -> list[tuple[str, Text]]:
        step = self._step
        rows = [("phase", self._way(room))]
        if step:
            spark = self.losses.drawn(max(min(room - 8, MOST_BARS), 8))
            rows.append(("loss", Text.assemble(f"{step.train_loss:.3f}  ", (spark, "cyan"))))
        if self._latest:
            rows.append(("validation", self._validation(self._latest)))
        if step:
            rate = say("rate {rate:.1e}, gradient {norm:.2f}", rate=step.learning_rate, norm=step.grad_norm)
            rows += [("learning", Text(rate)), ("speed", Text(self._speed(step))), ("memory", Text(self._memory(step)))]
        if self._machine:
            rows.append(("machine", Text(self._machine_line(self._machine))))
        if self._sample and self._sample.texts:
            said = " / ".join(
                line.strip() for line in printable(self._sample.texts[0].text).splitlines() if line.strip()
            )
            rows.append(("writes", Text(said, style="italic")))
        return rows

    def _phase(self) -> str:
        if self.is_stopping() and self._doing not in {"done", "stopped"}:
            return say("stopping")
        match self._doing:
            case "evaluating":
                return say("evaluating")
            case "sampling":
                return say("writing samples")
            case "done":
                return say("done")
            case "stopped":
                return say("stopped")
        return say("training")

    def _way(self, room: int) -> Text:
        """Progress bar with step, ETA and epoch; what does not fit is left out, the least important first."""
        step = self._step
        made = step.step if step else 0
        parts = [f"{made:,}/{self.plan.steps:,}"]
        if step:
            if self._doing not in {"done", "stopped"}:
                left_s = max(step.eta_s - (time.monotonic() - self._stepped_at_s), 0.0)
                parts.append(say("ETA {left}", left=formatting.duration(left_s)))
            parts.append(say("epoch {epoch:.2f}/{epochs:g}", epoch=step.epoch, epochs=round(self.plan.epochs, 2)))
        while sum(cell_len(part) + GAP for part in parts) > room and len(parts) > 1:
            parts.pop()
        bar = min(room - sum(cell_len(part) + GAP for part in parts), BAR_WIDTH)
        way = Text(parts[0])
        if bar >= SHORTEST_BAR:
            filled = bar * made // self.plan.steps
            way.append(" " * GAP).append("\u2501" * filled, "cyan").append("\u2500" * (bar - filled), "dim")
        for part in parts[1:]:
            way.append(" " * GAP + part)
        return way

    def _validation(self, latest: Evaluated) -> Text:
        shown = Text(say("perplexity {value}", value=formatting.perplexity(latest.val_perplexity)))
        if latest.step == 0:
            return shown.append(say(", before training"), style="dim")
        if self._before:
            change = latest.val_perplexity / self._before.val_perplexity - 1
            shown.append(f"  {change:+.1%}", style="green" if change < 0 else "red")
        if self._base is None:  # measured before this run was resumed
            return shown.append(say(" (step {step:,})", step=latest.step), style="dim")
        since = say(
            ", was {before} before training (step {step:,})",
            before=formatting.perplexity(self._base.val_perplexity),
            step=latest.step,
        )
        return shown.append(since, style="dim")

    def _speed(self, step: StepLogged) -> str:
        shown = formatting.rate(step.tokens_per_s)
        if self.plan.device == "cpu" or self.plan.device_flops_per_s is None:
            return shown
        share = step.tokens_per_s * self.plan.flops_per_token / self.plan.device_flops_per_s
        return shown + say(", {share:.0%} of the GPU's peak", share=share)

    def _memory(self, step: StepLogged) -> str:
        return say(
            "{used} at the peak, planned {planned}",
            used=formatting.memory(step.peak_memory_bytes),
            planned=formatting.memory(self.plan.peak_memory_bytes),
        )

    def _machine_line(self, event: SystemMetricsLogged) -> str:
        now = event.reading
        card = [
            say("GPU {share:.0f} %", share=now.gpu_utilization_percent)
            if now.gpu_utilization_percent is not None
            else "",
            f"{now.gpu_temperature_celsius:.0f} °C" if now.gpu_temperature_celsius is not None else "",
            f"{now.gpu_power_watts:.0f} W" if now.gpu_power_watts is not None else "",
            say("CPU {share:.0f} %", share=now.cpu_percent),
            say(
                "RAM {used} of {all}",
                used=formatting.memory(now.host_memory_used_bytes),
                all=formatting.memory(now.host_memory_bytes),
            ),
            formatting.energy(now.energy_joules) if now.energy_joules else "",
        ]
        return "  ".join(part for part in card if part)


class ResizedLive(Live):
    """Live display of a screen that stores how large it was drawn."""

    def __init__(self, screen: LiveScreen, *, console: Console, refresh_per_second: float) -> None:
        super().__init__(screen, console=console, refresh_per_second=refresh_per_second, transient=True)
        self._run_screen = screen

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """Clear the rows that wrapping has added, then draw."""
        added = self._run_screen.wrapped_rows(self.console.width) if self.console.is_interactive else 0
        climb = ((ControlType.CURSOR_UP, 1), (ControlType.ERASE_IN_LINE, 2)) * added
        clear = Control(ControlType.CARRIAGE_RETURN, (ControlType.ERASE_IN_LINE, 2), *climb)
        return [*([clear] if added else []), *super().process_renderables(renderables)]
