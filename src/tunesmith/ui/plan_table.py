"""Show what `plan` found: the plan with its reasons, the parts of the memory, and every alternative."""

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tunesmith.errors import on_one_line
from tunesmith.i18n import LazyString, say
from tunesmith.training.estimate import Method, TrainEstimate, duration_s
from tunesmith.training.plan import TrainPlan
from tunesmith.ui.wrapping import aligned, padded, wrapped
from tunesmith.utils.formatting import duration, memory

BAR_CELLS = 24
LEAST_WIDTH = 80


MEMORY_PARTS: dict[str, LazyString] = {
    "weights": LazyString("weights"),
    "moments": LazyString("moments"),
    "gradients": LazyString("gradients"),
    "activations": LazyString("activations"),
    "loss": LazyString("loss"),
    "casts": LazyString("casts"),
    "workspace": LazyString("workspace"),
    "host states": LazyString("host states"),
    "checkpoint": LazyString("checkpoint"),
}
"""What takes the memory, by its name in the plan."""


def forecast_report(forecast: TrainEstimate, *, width: int) -> str:
    """Show the whole forecast, at most `width` cells wide."""
    width = max(width, LEAST_WIDTH)
    plan = forecast.plan
    budget = forecast.hardware.budget
    head = [
        (say("model"), forecast.model),
        (say("for"), f"{forecast.hardware.name}: {forecast.hardware.reasons['device']}"),
        (say("memory to take"), f"{memory(budget.value)}: {budget.reason}"),
    ]
    if plan is None:
        head.append((say("does not fit"), forecast.refusal))
        parts = [aligned(head, width)]
    else:
        parts = [
            aligned([*head, *_plan_rows(plan, forecast.hardware.speed_of)], width),
            _memory_bars(plan, budget.value),
        ]
    notes = ("\n".join(wrapped(say("note: {note}", note=note), width)) for note in forecast.notes)
    parts += [_methods(forecast.methods, width), *notes]
    return "\n\n".join(parts)


def _plan_rows(plan: TrainPlan, speed_of: str) -> list[tuple[str, str]]:
    reasons = plan.reasons
    return [
        (
            say("text"),
            say("{samples:,} samples, {tokens:,} tokens", samples=plan.train_samples, tokens=plan.train_tokens),
        ),
        (say("precision"), f"{plan.precision}: {reasons['precision']}"),
        (say("attention"), f"{plan.attention}: {reasons['attention']}"),
        (say("kernels"), f"{plan.kernels}: {reasons['kernels']}"),
        (say("compiled"), f"{say('yes') if plan.compile else say('no')}: {reasons['compile']}"),
        (say("memory mode"), f"{plan.state_format.label}: {reasons['memory_mode']}"),
        *((name, f"{value}: {reason}") for name, value, reason in process_rows(plan)),
        *([(say("deterministic"), f"{say('yes')}: {reasons['deterministic']}")] if plan.deterministic else []),
        (say("recomputation"), f"{plan.activation_checkpointing}: {reasons['activation_checkpointing']}"),
        (say("tokens per step"), f"{plan.tokens_per_step:,}: {reasons['tokens_per_step']}"),
        (
            say("tokens at once"),
            say(
                "{tokens:,}, {times} times a step: {reason}",
                tokens=plan.tokens_per_micro_batch,
                times=plan.micro_batches_per_step,
                reason=reasons["tokens_per_micro_batch"],
            ),
        ),
        *([(say("prospect"), reasons["prospect"])] if "prospect" in reasons else []),
        (say("steps"), f"{plan.steps:,}: {reasons['steps']}"),
        (say("time"), _time(plan, speed_of)),
    ]


def _time(plan: TrainPlan, speed_of: str) -> str:
    """Estimated duration of the run, and for which GPU it is estimated."""
    all_s = duration_s(plan)
    if plan.step_s is None or all_s is None:
        return say("unknown: the GPU's speed is not known")
    return say(
        "about {time} at {rate:,.0f} tokens/s (estimated, not measured)"
        if plan.device == "cpu"
        else "about {time} at {rate:,.0f} tokens/s (estimated for {gpu}, not measured)",
        time=duration(all_s),
        rate=plan.tokens_per_micro_batch * plan.micro_batches_per_step / plan.step_s,
        gpu=speed_of,
    )


def _memory_bars(plan: TrainPlan, budget_bytes: int) -> str:
    """Parts of the peak memory as bars."""
    lines = [
        say(
            "peak memory {peak} of {budget}" if plan.devices == 1 else "peak memory of each process {peak} of {budget}",
            peak=memory(plan.peak_memory_bytes),
            budget=memory(budget_bytes),
        )
    ]
    names = {name: str(MEMORY_PARTS[name]) for name in plan.peak_memory_parts}
    name_cells = max(map(cell_len, names.values()))
    largest = max(plan.peak_memory_parts.values())
    for name, size in plan.peak_memory_parts.items():
        bar = "█" * round(size / largest * BAR_CELLS)
        lines.append(f"  {padded(names[name], name_cells)}  {memory(size):>9}  {bar}".rstrip())
    if plan.host_memory_bytes:
        lines.append(say("  and {memory} on the host", memory=memory(plan.host_memory_bytes)))
    return "\n".join(lines)


def _methods(methods: tuple[Method, ...], width: int) -> str:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column(say("model"), no_wrap=True)
    table.add_column(say("  states"), no_wrap=True)
    table.add_column(say("memory"), justify="right", no_wrap=True)
    table.add_column(say("fits"), no_wrap=True)
    table.add_column(say("again"), no_wrap=True)
    table.add_column(say("tokens/s"), justify="right", no_wrap=True)
    table.add_column(say("time"), justify="right", no_wrap=True)
    before = ""
    for method in methods:
        name = method.model if method.model != before else ""
        if name and before:
            table.add_row()
        before = method.model
        mark = "> " if method.is_chosen else "  "
        table.add_row(
            Text(on_one_line(name)),
            mark + method.method,
            memory(method.peak_memory_bytes),
            say("yes") if method.fits else say("no"),
            "" if method.activation_checkpointing == "none" else method.activation_checkpointing,
            f"{method.tokens_per_s:,.0f}" if method.fits and method.tokens_per_s is not None else "",
            duration(method.duration_s) if method.fits and method.duration_s is not None else "",
            style="" if method.fits else "dim",
        )
    console = Console(width=width, highlight=False, emoji=False, no_color=True, force_terminal=False)
    with console.capture() as capture:
        console.print(table)
    legend = say("> is what train takes; again: what the backward pass computes once more")
    return "\n".join([*(line.rstrip() for line in capture.get().splitlines()), *wrapped(legend, width)])


def process_rows(plan: TrainPlan) -> list[tuple[str, str, str]]:
    """Rows about the processes of a plan: name, value and reason; empty for a single process."""
    if plan.devices == 1:
        return []
    value = say(
        "{n}, each with a part of the model" if plan.shard else "{n}, each with the whole model", n=plan.devices
    )
    return [(say("processes"), value, plan.reasons.get("shard", ""))]
