"""Show a run on the terminal: the plan, a live screen, notices, and the summary.

In a terminal and in a notebook a few lines are redrawn in place; anywhere else (a pipe, a log, CI) plain lines are
printed, at most one every few seconds. Everything goes to stderr; only the summary is a result.
"""

import shlex
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tunesmith.generation.generate import GeneratedText
from tunesmith.i18n import say
from tunesmith.training.events import (
    NONFINITE_MESSAGES,
    CheckpointDamaged,
    CheckpointFailed,
    CheckpointSaved,
    CompilationFailed,
    DashboardStarted,
    Evaluated,
    Event,
    IntegrationFailed,
    LastModelPublished,
    LossSpiked,
    MicroBatchReduced,
    NonFiniteDetected,
    ReportWritten,
    ResumeVerified,
    RunStarted,
    Sampled,
    StepLogged,
    StopRequested,
    TrainResult,
)
from tunesmith.training.plan import TrainPlan
from tunesmith.ui.notebook import NotebookView, is_in_notebook
from tunesmith.ui.plan_table import process_rows
from tunesmith.ui.training_view import LiveScreen, ResizedLive
from tunesmith.ui.wrapping import WrappedText, grid, printable
from tunesmith.utils import formatting

PLAIN_LINE_EVERY_S = 5.0
PLAIN_WIDTH = 110
REDRAWN_PER_S = 2
"""Often enough for an eye, seldom enough to cost nothing."""


class Progress:
    """Shows events as they come.

    Args:
        quiet: show nothing but the summary.
        is_stopping: whether the run was asked to stop; a long evaluation reports it late.
    """

    def __init__(self, *, quiet: bool = False, is_stopping: Callable[[], bool] = lambda: False) -> None:
        self._quiet = quiet
        self._is_stopping = is_stopping
        terminal = sys.stderr.isatty()
        width = None if terminal else PLAIN_WIDTH
        self._console = Console(stderr=True, highlight=False, emoji=False, quiet=quiet, width=width)
        self._is_redrawn = terminal and not quiet and not self._console.is_dumb_terminal
        self._is_in_notebook = is_in_notebook() and not quiet
        self._live: ResizedLive | NotebookView | None = None
        self._screen: LiveScreen | None = None
        self._planned: RunStarted | None = None
        self._last_plain_line_s = 0.0
        self._latest: Evaluated | None = None
        self._samples: list[Sampled] = []
        self._report: str | None = None
        self._could_not_save = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._screen and error:
            self._screen.break_off()
        self._stop_redrawing()
        if self._planned and not self._is_in_notebook:
            self._console.print()

    def show(self, event: Event) -> None:
        """Show one event."""
        self._redraw_with(event)
        if isinstance(event, RunStarted):
            self._planned = event
            self._show_plan(event)
            self._begin(event)
        elif isinstance(event, Evaluated):
            self._show_evaluation(event)
        elif isinstance(event, Sampled):
            self._samples.append(event)
        elif isinstance(event, CheckpointSaved) and self._could_not_save:
            self._could_not_save = False
            self._say(say("step {step:,} is saved: there is disk space again", step=event.step))
        elif isinstance(event, CheckpointFailed):
            self._could_not_save = True
        elif isinstance(event, ReportWritten):
            self._report = str(event.path)
        elif isinstance(event, StepLogged) and self._planned and not self._live:
            self._show_step(event, self._planned.plan)
        for line in notices_of(event):
            self._say(line)

    def summary(self, result: TrainResult) -> str:
        """Summarize the run: perplexity, cost, samples, and what to do next."""
        is_tuned = self._planned and "prospect" not in self._planned.plan.reasons
        model = self._planned.model if self._planned and is_tuned else ""  # fresh weights cannot be compared with
        return summary(result, self._samples, model=model, report=self._report)

    def _begin(self, planned: RunStarted) -> None:
        if not (self._is_redrawn or self._is_in_notebook):
            self._say(say("measuring the model before training ..."))
            return
        self._screen = LiveScreen(planned.plan, is_stopping=self._is_stopping)
        if self._is_in_notebook:
            self._live = NotebookView(self._screen)
        else:
            self._live = ResizedLive(self._screen, console=self._console, refresh_per_second=REDRAWN_PER_S)
        self._live.start()

    def _redraw_with(self, event: Event) -> None:
        if self._screen:
            self._screen.note(event)
        if isinstance(self._live, NotebookView):  # a terminal's screen is drawn by the clock
            self._live.follow(event)

    def _stop_redrawing(self) -> None:
        if self._live:
            self._live.stop()

    def _show_plan(self, planned: RunStarted) -> None:
        plan = planned.plan
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="bold", no_wrap=True)
        grid.add_column()
        grid.add_column(style="dim", overflow="fold")
        for name, value, reason in plan_rows(planned):
            grid.add_row(name, WrappedText(value), WrappedText(reason))
        self._console.print(grid)
        for notice in planned.notices:
            self._say(say("warning: {notice}", notice=notice))
        if planned.resumed_at_step:
            self._say(
                say("continuing after step {step:,} of {steps:,}", step=planned.resumed_at_step, steps=plan.steps)
            )

    def _show_evaluation(self, event: Evaluated) -> None:
        if event.step == 0:
            self._say(say("before training: validation perplexity {value:.2f}", value=event.val_perplexity))
        else:
            mark = say("  (best so far)") if event.is_best else say("  (not better)")
            line = say(
                "epoch {epoch:.2f}, step {step:,}: validation perplexity {value:.2f}",
                epoch=event.epoch,
                step=event.step,
                value=event.val_perplexity,
            )
            self._say(line + mark)
        self._latest = event

    def _show_step(self, event: StepLogged, plan: TrainPlan) -> None:
        now_s = time.monotonic()
        if now_s - self._last_plain_line_s >= PLAIN_LINE_EVERY_S or event.step == plan.steps:
            self._last_plain_line_s = now_s
            perplexity = say("val ppl {value:.1f}  ", value=self._latest.val_perplexity) if self._latest else ""
            self._say(
                say(
                    "step {step:,}/{steps:,}  epoch {epoch:.2f}  ETA {left}  loss {loss:.3f}  {perplexity}"
                    "lr {rate:.1e}  {speed:,.0f} tok/s  {memory}",
                    step=event.step,
                    steps=plan.steps,
                    epoch=event.epoch,
                    left=formatting.duration(event.eta_s),
                    loss=event.train_loss,
                    perplexity=perplexity,
                    rate=event.learning_rate,
                    speed=event.tokens_per_s,
                    memory=formatting.memory(event.peak_memory_bytes),
                )
            )

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False, soft_wrap=True)


def plan_rows(planned: RunStarted) -> list[tuple[str, str, str]]:
    """Return the plan as rows of name, value and reason."""
    plan, reasons = planned.plan, planned.plan.reasons
    return [
        (
            say("model"),
            say("{model}, {millions:.1f}M parameters", model=planned.model, millions=planned.parameters / 1e6),
            "",
        ),
        (
            say("text"),
            say("{samples:,} samples, {tokens:,} tokens", samples=plan.train_samples, tokens=plan.train_tokens),
            say("{samples:,} more samples held out for validation", samples=plan.val_samples),
        ),
        (say("device"), f"{plan.device}: {plan.device_name}", reasons["device"]),
        *process_rows(plan),
        (say("precision"), plan.precision, reasons["precision"]),
        (
            say("memory"),
            say("{memory} at the peak", memory=formatting.memory(plan.peak_memory_bytes)),
            reasons["peak_memory_bytes"],
        ),
        (say("memory mode"), plan.state_format.label, reasons["memory_mode"]),
        *(
            [(say("recomputed"), plan.activation_checkpointing, reasons["activation_checkpointing"])]
            if plan.activation_checkpointing != "none"
            else []
        ),
        *([(say("prospect"), reasons["prospect"], "")] if "prospect" in reasons else []),
        *([(say("optimizer"), plan.optimizer, reasons["optimizer"])] if plan.optimizer != "adamw" else []),
        (say("steps"), f"{plan.steps:,}", reasons["steps"]),
        (say("tokens per step"), f"{plan.tokens_per_step:,}", reasons["tokens_per_step"]),
        (
            say("tokens at once"),
            say(
                "{tokens:,}, {times} times a step",
                tokens=plan.tokens_per_micro_batch,
                times=plan.micro_batches_per_step,
            ),
            reasons["tokens_per_micro_batch"],
        ),
        *([(say("adapters"), *_adapters(plan))] if plan.lora else []),
        *([(say("frozen"), _frozen(plan), say("asked for"))] if plan.freeze != "none" else []),
        *([(say("attention"), plan.attention, reasons["attention"])] if plan.attention else []),
        *([(say("kernels"), plan.kernels, reasons["kernels"])] if plan.kernels else []),
        *([(say("deterministic"), say("yes"), reasons["deterministic"])] if plan.deterministic else []),
        (say("compiled"), say("yes") if plan.compile else say("no"), reasons["compile"]),
        (say("context"), say("{tokens:,} tokens", tokens=plan.context_length), reasons["context_length"]),
        (
            say("learning rate"),
            say("{rate:g}, warm-up {steps} steps", rate=plan.learning_rate, steps=plan.warmup_steps),
            reasons["learning_rate"],
        ),
        (
            say("evaluation"),
            say("every {steps:,} steps", steps=plan.eval_steps),
            reasons["eval_steps"],
        ),
        (
            say("checkpoint"),
            say("every {steps:,} steps", steps=plan.save_steps),
            reasons["save_steps"],
        ),
        (say("result"), str(planned.out), ""),
    ]


def _adapters(plan: TrainPlan) -> tuple[str, str]:
    size = say(
        "rank {rank}, alpha {alpha:g}; Adam's moments {memory}",
        rank=plan.lora_r,
        alpha=plan.lora_alpha,
        memory=formatting.memory(plan.peak_memory_parts["moments"]),
    )
    return size, say("on {projections}; all else stays", projections=", ".join(plan.lora_target_modules))


def _frozen(plan: TrainPlan) -> str:
    if isinstance(plan.freeze, int):
        return say("the first {count} blocks", count=plan.freeze)
    return say("embeddings, final norm and head")


def notices_of(event: Event) -> list[str]:
    """Return a line or more for each thing that is unusual; none for what is as expected."""
    lines: list[str] = []
    if isinstance(event, MicroBatchReduced):
        lines.append(_shrunk(event))
    elif isinstance(event, NonFiniteDetected):
        lines.append(
            say(
                "warning: step {step:,}: {what} (NaN or infinity); {action}",
                step=event.step,
                what=NONFINITE_MESSAGES[event.what],
                action=event.action,
            )
        )
        lines += [f"  {printable(str(sample))}" for sample in event.samples]
    elif isinstance(event, LossSpiked):
        lines.append(
            say(
                "warning: the loss of step {step:,} is {loss:.3f}, far above the usual {usual:.3f}",
                step=event.step,
                loss=event.train_loss,
                usual=event.usual_loss,
            )
        )
    elif isinstance(event, LastModelPublished):
        lines.append(say("warning: no evaluation had a finite perplexity: the model of the last step is saved instead"))
    elif isinstance(event, CheckpointFailed):
        lines.append(
            say(
                "warning: step {step:,} could not be saved ({reason}); training continues, what was saved before "
                "stays, and the next checkpoint tries again",
                step=event.step,
                reason=event.reason,
            )
        )
    elif isinstance(event, CheckpointDamaged):
        damaged = say(
            "the checkpoint {folder} is damaged ({reason}) and set aside", folder=event.folder, reason=event.reason
        )
        lines.append(say("warning: {notice}", notice=damaged))
    else:
        lines += _notice(event)
    return lines


def _notice(event: Event) -> list[str]:
    """Notices of events that have at most one line."""
    if isinstance(event, CompilationFailed):
        reason = printable(event.reason)
        return [say("warning: compiling failed ({reason}): training continues uncompiled, slower", reason=reason)]
    if isinstance(event, StopRequested):
        return [say("stopping: the step is finished and everything saved; Ctrl-C again stops at once")]
    if isinstance(event, ResumeVerified):
        return [_verified(event)]
    if isinstance(event, DashboardStarted):
        return [say("live page  {url}", url=event.url)]
    if isinstance(event, IntegrationFailed):
        failed = say("warning: {what}: {reason}; the run is untouched", what=event.what, reason=event.reason)
        return [printable(failed)]
    return []


def _shrunk(event: MicroBatchReduced) -> str:
    size = say(
        "{tokens:,} tokens at once, {times} times a step, recomputing {what}"
        if event.activation_checkpointing != "none"
        else "{tokens:,} tokens at once, {times} times a step",
        tokens=event.tokens_per_micro_batch,
        times=event.micro_batches,
        what=event.activation_checkpointing,
    )
    return say(
        "steps suddenly became slow: the driver swaps in step {step:,}; from here on {size}: the update is the same, "
        "and it stays so"
        if event.was_slow
        else "memory ran out in step {step:,}; it was made again with {size}: the update is the same, and it stays so",
        step=event.step,
        size=size,
    )


def _verified(event: ResumeVerified) -> str:
    if not event.differing:
        return say(
            "resume verified: {steps} steps with a break after {broken_after} end bitwise like {steps} without",
            steps=event.steps,
            broken_after=event.broken_after,
        )
    differences = (
        say("{name} by up to {largest:.1e}", name=name, largest=largest) for name, largest in event.differing.items()
    )
    return say(
        "warning: resume is not exact on this device: {steps} steps with a break after {broken_after} differ from "
        "{steps} without in {differences}",
        steps=event.steps,
        broken_after=event.broken_after,
        differences=", ".join(differences),
    )


SHOWN_OF_A_SAMPLE = 200


def summary(result: TrainResult, samples: Sequence[Sampled], *, model: str = "", report: str | None = None) -> str:
    """Summarize a run: perplexity, cost, predicted and measured, first and last samples, what to do next.

    `model` is the base model to compare with.
    """
    if result.perplexity is None:
        stopped = say("{steps:,}, before the first evaluation", steps=result.steps)
        return grid([(say("stopped at step"), stopped)])
    lines = [grid(_rows(result))]
    if result.perplexity >= result.base_perplexity:
        lines.append("")
        lines.append(
            say("The model did not get better at this text: try a lower --learning-rate, fewer --epochs or more text.")
        )
    for sampled in [*samples[:1], *samples[1:][-1:]]:
        before = sampled.step == 0
        lines += ["", say("before training it generates:") if before else say("after training it generates:")]
        lines += [_shown(text) for text in sampled.texts]
    if not result.interrupted:
        lines += ["", say("next:"), *(f"  {command}" for command in _next(result, model, report))]
    return "\n".join(lines)


def _rows(result: TrainResult) -> list[tuple[str, str]]:
    assert result.perplexity is not None
    rows = [
        (
            say("validation perplexity"),
            say("{base:.2f} before, {tuned:.2f} after", base=result.base_perplexity, tuned=result.perplexity),
        ),
        (say("best model"), say("after step {best:,} of {steps:,}", best=result.best_step, steps=result.steps)),
        (
            say("learned from"),
            say("{tokens:,} tokens at {rate}", tokens=result.tokens, rate=formatting.rate(result.tokens_per_s)),
        ),
        (
            say("took"),
            say(
                "{time}, of them {steps} in steps"
                if result.predicted_duration_s is None
                else "{time}, of them {steps} in steps; the plan said {predicted}",
                time=formatting.duration(result.duration_s),
                steps=formatting.duration(result.tokens / result.tokens_per_s if result.tokens_per_s else 0.0),
                predicted=formatting.duration(result.predicted_duration_s or 0.0),
            ),
        ),
        (
            say("peak memory"),
            say(
                "{used}; the plan said {planned}",
                used=formatting.memory(result.peak_memory_bytes),
                planned=formatting.memory(result.predicted_peak_memory_bytes),
            ),
        ),
    ]
    if result.energy_joules is not None:
        per_million = result.energy_joules / max(result.tokens, 1) * 1e6
        rows.append(
            (
                say("energy"),
                say(
                    "{energy}, {each} for a million tokens",
                    energy=formatting.energy(result.energy_joules),
                    each=formatting.energy(per_million),
                ),
            )
        )
    return rows


def _next(result: TrainResult, model: str, report: str | None) -> list[str]:
    out = shlex.quote(result.out)
    base = f" --base {shlex.quote(model)}" if model else ""
    look = say("open {report} in a browser", report=report) if report else f"tunesmith report {out}"
    return [f"tunesmith generate {out} -n 5", f"tunesmith evaluate {out} FILE{base}", look]


def _shown(text: GeneratedText) -> str:
    """A sample as an indented paragraph, cut if it is long."""
    one_line = " / ".join(line.strip() for line in printable(text.text).splitlines() if line.strip())
    cut = one_line if len(one_line) <= SHOWN_OF_A_SAMPLE else one_line[:SHOWN_OF_A_SAMPLE] + "..."
    marked = f"{cut or say('(nothing)')}{'' if text.finish_reason == 'stop' else ' ' + say('[continues]')}"
    console = Console(width=shutil.get_terminal_size().columns)
    return "\n".join(f"  {line.plain.rstrip()}" for line in Text(marked).wrap(console, console.width - 2))
