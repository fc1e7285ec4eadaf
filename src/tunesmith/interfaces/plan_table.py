"""What `plan` found, for a person: the plan with its reasons, what takes the memory, and every other way."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tunesmith.interfaces.tables import aligned, duration, mebibytes
from tunesmith.training.forecast import Forecast, Method, duration_s
from tunesmith.training.plan import TrainPlan

BAR_CELLS = 24
LEAST_WIDTH = 80


def forecast_report(forecast: Forecast, *, width: int) -> str:
    """The whole answer, at most `width` cells wide."""
    width = max(width, LEAST_WIDTH)
    plan = forecast.plan
    budget = forecast.hardware.budget
    head = [("model", forecast.model), ("for", f"{forecast.hardware.name}: {forecast.hardware.reasons['device']}")]
    head.append(("memory to take", f"{mebibytes(budget.value)}: {budget.reason}"))
    if plan is None:
        head.append(("does not fit", forecast.refusal))
        parts = [aligned(head, width)]
    else:
        parts = [aligned([*head, *_plan_rows(plan)], width), _memory_bars(plan, budget.value)]
    parts += [_methods(forecast.methods, width), *(f"note: {note}" for note in forecast.notes)]
    return "\n\n".join(parts)


def _plan_rows(plan: TrainPlan) -> list[tuple[str, str]]:
    reasons = plan.reasons
    at_once = f"{plan.tokens_per_micro_batch:,}, {plan.micro_batches_per_step} times a step"
    rate = plan.tokens_per_micro_batch * plan.micro_batches_per_step / plan.step_s
    return [
        ("text", f"{plan.train_samples:,} samples, {plan.train_tokens:,} tokens"),
        ("precision", f"{plan.precision}: {reasons['precision']}"),
        ("states", f"{plan.states}: {reasons['states']}"),
        ("recomputation", f"{plan.recompute}: {reasons['recompute']}"),
        ("tokens per step", f"{plan.tokens_per_step:,}: {reasons['tokens_per_step']}"),
        ("tokens at once", f"{at_once}: {reasons['tokens_per_micro_batch']}"),
        ("steps", f"{plan.steps:,}: {reasons['steps']}"),
        ("time", f"about {duration(duration_s(plan))} at {rate:,.0f} tokens/s (computed, not measured)"),
    ]


def _memory_bars(plan: TrainPlan, budget_bytes: int) -> str:
    """What takes the memory, each part as long as it is large."""
    lines = [f"peak memory {mebibytes(plan.peak_memory_bytes)} of {mebibytes(budget_bytes)}"]
    name_width = max(map(len, plan.peak_memory_parts))
    largest = max(plan.peak_memory_parts.values())
    for name, size in plan.peak_memory_parts.items():
        bar = "█" * round(size / largest * BAR_CELLS)
        lines.append(f"  {name:<{name_width}}  {mebibytes(size):>9}  {bar}".rstrip())
    if plan.host_memory_bytes:
        lines.append(f"  and {mebibytes(plan.host_memory_bytes)} on the host")
    return "\n".join(lines)


def _methods(methods: tuple[Method, ...], width: int) -> str:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for name in ("model", "  states", "memory", "fits", "again", "tokens/s", "time"):
        table.add_column(name, justify="right" if name in {"memory", "tokens/s", "time"} else "left", no_wrap=True)
    before = ""
    for method in methods:
        name = method.model if method.model != before else ""
        if name and before:
            table.add_row()
        before = method.model
        mark = "> " if method.is_chosen else "  "
        table.add_row(
            name,
            mark + method.method,
            mebibytes(method.peak_memory_bytes),
            "yes" if method.fits else "no",
            "" if method.recompute == "nothing" else method.recompute,
            f"{method.tokens_per_s:,.0f}" if method.fits else "",
            duration(method.duration_s) if method.fits else "",
            style="" if method.fits else "dim",
        )
    console = Console(width=width, highlight=False, no_color=True, force_terminal=False)
    with console.capture() as capture:
        console.print(table)
        console.print(Text("> is what train takes; again: what the backward pass computes once more", style="dim"))
    return "\n".join(line.rstrip() for line in capture.get().splitlines())
