"""A run on the terminal: the plan, a calm live view, and the summary.

On a terminal two lines are redrawn in place; anywhere else (a pipe, a log, CI) plain lines appear, at most one
every few seconds. Everything goes to stderr; only the summary is a result.
"""

import shutil
import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tunesmith.generation.generate import GeneratedText
from tunesmith.interfaces.notices import notices_of
from tunesmith.interfaces.tables import aligned, duration, mebibytes, printable
from tunesmith.training.events import Evaluated, Event, Planned, Sampled, Saved, SaveFailed, Stepped, TrainResult
from tunesmith.training.plan import TrainPlan

PLAIN_LINE_EVERY_S = 5.0
SHOWN_OF_A_SAMPLE = 200
PLAIN_WIDTH = 110


class Progress:
    """Shows events as they come.

    Args:
        quiet: show nothing but the summary.
    """

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        terminal = sys.stderr.isatty()
        self._console = Console(stderr=True, highlight=False, quiet=quiet, width=None if terminal else PLAIN_WIDTH)
        self._live = Live(console=self._console, refresh_per_second=8, transient=True) if terminal else None
        self._planned: Planned | None = None
        self._last_plain_line_s = 0.0
        self._latest: Evaluated | None = None
        self._samples: list[tuple[int, list[GeneratedText]]] = []
        self._could_not_save = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()
        if self._planned:
            self._console.print()

    def show(self, event: Event) -> None:
        """Show one event."""
        if isinstance(event, Planned):
            self._planned = event
            self._show_plan(event)
            self._say("measuring the model before training ...")
        elif isinstance(event, Evaluated):
            self._show_evaluation(event)
        elif isinstance(event, Sampled):
            self._samples.append((event.step, event.texts))
        elif isinstance(event, Saved) and self._could_not_save:
            self._could_not_save = False
            self._say(f"step {event.step:,} is saved: there is room again")
        elif isinstance(event, SaveFailed):
            self._could_not_save = True
        elif isinstance(event, Stepped) and self._planned:
            self._show_step(event, self._planned.plan)
        for line in notices_of(event):
            self._say(line)

    def summary(self, result: TrainResult) -> str:
        """What was learned, what the model writes now, and what to do next."""
        if result.perplexity is None:
            return aligned([("stopped at step", f"{result.steps:,}, before the first evaluation")])
        rows = [
            ("validation perplexity", f"{result.base_perplexity:.2f} before, {result.perplexity:.2f} after"),
            ("best model", f"after step {result.best_step:,} of {result.steps:,}"),
            ("learned from", f"{result.tokens:,} tokens at {result.tokens_per_s:,.0f} tokens/s"),
            ("took", duration(result.duration_s)),
            (
                "peak memory",
                f"{mebibytes(result.peak_memory_bytes)}; the plan said {mebibytes(result.predicted_peak_memory_bytes)}",
            ),
        ]
        lines = [aligned(rows)]
        if result.perplexity >= result.base_perplexity:
            lines.append(
                "\nThe model did not get better at this text: try a lower --learning-rate, fewer --epochs or more text."
            )
        for step, texts in self._samples:
            lines.append(f"\n{'before' if step == 0 else 'after'} training it writes:")
            lines += [_shown(text) for text in texts]
        if not result.interrupted:
            lines.append(f"\nnext:\n  tunesmith generate {result.out} -n 5\n  tunesmith evaluate {result.out} FILE")
        return "\n".join(lines)

    def _show_plan(self, planned: Planned) -> None:
        plan = planned.plan
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="bold", no_wrap=True)
        grid.add_column()
        grid.add_column(style="dim", overflow="fold")
        for name, value, reason in plan_rows(planned):
            grid.add_row(name, Text(value), Text(reason))
        self._console.print(grid)
        for notice in planned.notices:
            self._say(f"warning: {notice}")
        if planned.resumed_at_step:
            self._say(f"continuing after step {planned.resumed_at_step:,} of {plan.steps:,}")

    def _show_evaluation(self, event: Evaluated) -> None:
        if event.step == 0:
            self._say(f"before training: validation perplexity {event.perplexity:.2f}")
        else:
            mark = "  (best so far)" if event.is_best else "  (not better)"
            self._say(
                f"epoch {event.epoch:.2f}, step {event.step:,}: validation perplexity {event.perplexity:.2f}{mark}"
            )
        self._latest = event

    def _show_step(self, event: Stepped, plan: TrainPlan) -> None:
        if self._live:
            if not self._live.is_started and not self._quiet:
                self._live.start()
            self._live.update(self._step_view(event, plan))
            return
        now_s = time.monotonic()
        if now_s - self._last_plain_line_s >= PLAIN_LINE_EVERY_S or event.step == plan.steps:
            self._last_plain_line_s = now_s
            self._say(
                f"step {event.step:,}/{plan.steps:,}  epoch {event.epoch:.2f}  ETA {duration(event.eta_s)}  "
                f"{self._numbers(event)}"
            )

    def _step_view(self, event: Stepped, plan: TrainPlan) -> Group:
        row = Table.grid(padding=(0, 2), expand=False)
        row.add_row(
            f"step {event.step:,}/{plan.steps:,}",
            ProgressBar(total=plan.steps, completed=event.step, width=24),
            f"epoch {event.epoch:.2f}/{plan.epochs:g}",
            f"ETA {duration(event.eta_s)}",
        )
        return Group(row, Text(self._numbers(event), style="dim"))

    def _numbers(self, event: Stepped) -> str:
        perplexity = f"val ppl {self._latest.perplexity:.1f}  " if self._latest else ""
        return (
            f"loss {event.loss_nats_per_token:.3f}  {perplexity}lr {event.learning_rate:.1e}  "
            f"{event.tokens_per_s:,.0f} tok/s  {mebibytes(event.peak_memory_bytes)}"
        )

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False, soft_wrap=True)


def plan_rows(planned: Planned) -> list[tuple[str, str, str]]:
    """The plan as name, value and reason."""
    plan, reasons = planned.plan, planned.plan.reasons
    return [
        ("model", f"{planned.model}, {planned.parameters / 1e6:.1f}M parameters", ""),
        (
            "text",
            f"{plan.train_samples:,} samples, {plan.train_tokens:,} tokens",
            f"{plan.validation_samples:,} more samples kept apart to measure",
        ),
        ("device", f"{plan.device}: {plan.device_name}", reasons["device"]),
        ("precision", plan.precision, reasons["precision"]),
        ("memory", f"{mebibytes(plan.peak_memory_bytes)} at the peak", reasons["peak_memory_bytes"]),
        ("states", plan.states, reasons["states"]),
        *([("recomputed", plan.recompute, reasons["recompute"])] if plan.recompute != "nothing" else []),
        ("steps", f"{plan.steps:,}", reasons["steps"]),
        ("tokens per step", f"{plan.tokens_per_step:,}", reasons["tokens_per_step"]),
        (
            "tokens at once",
            f"{plan.tokens_per_micro_batch:,}, {plan.micro_batches_per_step} times a step",
            reasons["tokens_per_micro_batch"],
        ),
        *([("adapters", _adapters(plan), f"on {', '.join(plan.lora_targets)}; all else stays")] if plan.lora else []),
        *([("frozen", _frozen(plan), "asked for")] if plan.frozen != "nothing" else []),
        ("compiled", "yes" if plan.compiled else "no", reasons["compiled"]),
        ("context", f"{plan.context_tokens:,} tokens", reasons["context_tokens"]),
        (
            "learning rate",
            f"{plan.learning_rate:g}, warm-up {plan.warmup_steps} steps",
            reasons["learning_rate"],
        ),
        ("evaluation", f"every {plan.eval_every_steps:,} steps", reasons["eval_every_steps"]),
        ("checkpoint", f"every {plan.save_every_steps:,} steps", reasons["save_every_steps"]),
        ("result", str(planned.out), ""),
    ]


def _adapters(plan: TrainPlan) -> str:
    moments = mebibytes(plan.peak_memory_parts["moments"])
    return f"rank {plan.lora_rank}, alpha {plan.lora_alpha:g}; Adam's moments {moments}"


def _frozen(plan: TrainPlan) -> str:
    return f"the first {plan.frozen} blocks" if isinstance(plan.frozen, int) else "embeddings, final norm and head"


def _shown(text: GeneratedText) -> str:
    """A sample as an indented paragraph, cut if it is long."""
    one_line = " / ".join(line.strip() for line in printable(text.text).splitlines() if line.strip())
    cut = one_line if len(one_line) <= SHOWN_OF_A_SAMPLE else one_line[:SHOWN_OF_A_SAMPLE] + "..."
    marked = f"{cut or '(nothing)'}{'' if text.finish_reason == 'stop' else ' [goes on]'}"
    console = Console(width=shutil.get_terminal_size().columns)
    return "\n".join(f"  {line.plain.rstrip()}" for line in Text(marked).wrap(console, console.width - 2))
