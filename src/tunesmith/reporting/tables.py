"""Compute the numbers and tables of a report, from the metrics file and `run.json`."""

import math
import shlex
from dataclasses import MISSING, dataclass, fields
from typing import Any, Literal

import numpy as np

from tunesmith.config import TrainConfig
from tunesmith.data.segmentation import shown_separator
from tunesmith.i18n import LazyString, say
from tunesmith.reporting.run_reader import RunRecord
from tunesmith.run_dir import number_or
from tunesmith.utils import formatting
from tunesmith.utils.formatting import perplexity

Rows = list[list[str]]
SHOWN_SOURCES = 30
SHOWN_INCIDENTS = 40


def table(head: list[str], rows: Rows) -> dict[str, Any]:
    """Table as the page's template draws it."""
    return {"head": head, "rows": rows}


def duration_s(run: RunRecord) -> float:
    """Duration of the run so far."""
    outcome = run.result.get("duration_s")
    if isinstance(outcome, int | float):
        return float(outcome)
    elapsed = run.steps["elapsed_s"]
    return float(np.nanmax(elapsed)) if run.steps.has("elapsed_s") else 0.0


def peak_memory_bytes(run: RunRecord) -> float | None:
    """Peak memory so far."""
    outcome = run.result.get("peak_memory_bytes")
    if isinstance(outcome, int | float):
        return float(outcome)
    return float(np.nanmax(run.steps["peak_memory_bytes"])) if run.steps.has("peak_memory_bytes") else None


def energy_joules(run: RunRecord) -> float | None:
    """Energy of the computing device, where it could be read."""
    outcome = run.result.get("energy_joules")
    if isinstance(outcome, int | float):
        return float(outcome)
    return float(np.nanmax(run.machine["energy_joules"])) if run.machine.has("energy_joules") else None


def tokens_per_s(run: RunRecord) -> float | None:
    """Average speed while stepping."""
    outcome = run.result.get("tokens_per_s")
    if isinstance(outcome, int | float):
        return float(outcome)
    return float(run.steps["tokens_per_s"][-1]) if len(run.steps) else None


def tokens(run: RunRecord) -> int:
    """Tokens trained on so far."""
    return int(run.steps["tokens"][-1]) if run.steps.has("tokens") else 0


def peak_share(run: RunRecord) -> float | None:
    """Model FLOPs utilization: the share of the GPU's specified peak; None on CPUs."""
    speed, per_token, peak = tokens_per_s(run), run.plan.get("flops_per_token"), run.plan.get("device_flops_per_s")
    if run.plan["device"] == "cpu" or not speed or not per_token or not peak:
        return None
    return float(speed * per_token / peak)


def tiles(run: RunRecord) -> list[dict[str, str]]:
    """Numbers at the top of the page."""
    before, best, peak, speed, joules = (
        run.before,
        run.best,
        peak_memory_bytes(run),
        tokens_per_s(run),
        energy_joules(run),
    )
    share = peak_share(run)
    found = []
    if before and best:
        found.append(
            _tile(
                say("validation perplexity"),
                f"{formatting.perplexity(before.perplexity)} \u2192 {formatting.perplexity(best.perplexity)}",
                say("before \u2192 best, after step {step:,}", step=best.step),
            )
        )
    found += [
        _tile(
            say("steps"),
            f"{run.last_step:,} / {int(run.plan['steps']):,}",
            say("{epochs:.2f} epochs", epochs=run.last_step / max(int(run.plan["steps_per_epoch"]), 1)),
        ),
        _tile(say("learned from"), say("{count:,} tokens", count=tokens(run)), _samples_note(run)),
        _tile(say("time"), formatting.duration(duration_s(run)), ""),
    ]
    if speed:
        note = say("{share:.0%} of the GPU's peak", share=share) if share is not None else ""
        found.append(_tile(say("speed"), formatting.rate(speed), note))
    if peak:
        planned = say("planned {planned}", planned=formatting.memory(float(run.plan["peak_memory_bytes"])))
        found.append(_tile(say("peak memory"), formatting.memory(peak), planned))
    if joules is not None:
        found.append(_tile(say("energy"), formatting.energy(joules), say("of the device that computed")))
    return found


def predicted(run: RunRecord) -> dict[str, Any]:
    """Predicted against measured."""
    peak, speed = peak_memory_bytes(run), tokens_per_s(run)
    rows = []
    if peak:
        planned = float(run.plan["peak_memory_bytes"])
        rows.append(
            [say("peak memory"), formatting.memory(planned), formatting.memory(peak), f"{peak / planned - 1:+.0%}"]
        )
    step_s = run.plan.get("step_s")
    if step_s and run.steps.has("training_s") and run.last_step:
        measured = float(np.nanmax(run.steps["training_s"])) / run.last_step
        rows.append([say("time of a step"), f"{step_s:.3g} s", f"{measured:.3g} s", f"{measured / step_s - 1:+.0%}"])
    if speed and step_s:
        planned = int(run.plan["tokens_per_step"]) / step_s
        rows.append([say("speed"), formatting.rate(planned), formatting.rate(speed), f"{speed / planned - 1:+.0%}"])
    return table(["", say("predicted"), say("measured"), say("difference")], rows)


def plan_choices(run: RunRecord) -> dict[str, Any]:
    """Every decision of the plan with its reason."""
    plan, reasons = run.plan, run.plan.get("reasons") or {}
    rows = [
        [name.replace("_", " "), _plan_value(name, plan[name]), str(reason)]
        for name, reason in reasons.items()
        if name in plan
    ]
    return table([say("setting"), say("value"), say("why")], rows)


def all_settings(run: RunRecord) -> dict[str, Any]:
    """Every value of the plan, and the parts of its memory."""
    plan = run.plan
    parts = plan.get("peak_memory_parts") or {}
    rows = [
        [name.replace("_", " "), _plan_value(name, value)]
        for name, value in plan.items()
        if name not in {"reasons", "peak_memory_parts"}
    ]
    rows += [[say("memory: {part}", part=part), formatting.memory(float(size))] for part, size in parts.items() if size]
    return table([say("setting"), say("value")], rows)


def text_facts(run: RunRecord) -> dict[str, Any]:
    """Numbers about the training text."""
    data, plan = run.description["data"], run.plan
    facts = [
        [say("samples"), f"{data.get('samples', 0):,}"],
        [
            say("learned"),
            say("{samples:,} samples, {tokens:,} tokens", samples=plan["train_samples"], tokens=plan["train_tokens"]),
        ],
        [
            say("held out for validation"),
            say(
                "{samples:,} samples, {tokens:,} tokens",
                samples=plan["val_samples"],
                tokens=plan["val_tokens"],
            ),
        ],
        [
            say("size"),
            say(
                "{size:,} bytes, {characters:,} characters",
                size=data.get("bytes", 0),
                characters=data.get("characters", 0),
            ),
        ],
        [say("exact copies of other samples"), f"{data.get('duplicate_samples', 0):,}"],
        [say("left out: empty"), f"{data.get('empty_samples', 0):,}"],
        [say("left out: do not decode"), f"{data.get('undecodable_samples', 0):,}"],
    ]
    lengths = run.description.get("length_histogram") or []
    most = max((part["samples"] for part in lengths), default=0)
    bars = [
        {
            "name": f"{part['from_tokens']:,}\u2013{part['to_tokens'] - 1:,}",
            "count": f"{part['samples']:,}",
            "percent": round(80 * part["samples"] / most, 1),
        }
        for part in lengths
    ]
    sources = data.get("sources") or []
    rows = [
        [
            str(one["name"]),
            f"{one['samples']:,}",
            str(one.get("encoding") or ""),
            shown_separator(str(one.get("split_on", ""))),
            _reason(one.get("reason", "")),
        ]
        for one in sources[:SHOWN_SOURCES]
    ]
    if len(sources) > SHOWN_SOURCES:
        rows.append([say("and {count:,} more files", count=len(sources) - SHOWN_SOURCES), "", "", "", ""])
    head = [say("source"), say("samples"), say("encoding"), say("sample border"), say("why")]
    return {"facts": facts, "lengths": bars, "sources": table(head, rows)}


def _reason(kept: object) -> str:
    """Why a text was read this way: a sentence in older runs, a translatable phrase in newer ones."""
    is_phrase = isinstance(kept, dict) and kept.keys() >= {"text", "values"}
    return str(LazyString.kept(kept)) if is_phrase else str(kept)  # type: ignore[arg-type]


def incidents(run: RunRecord) -> dict[str, Any] | None:
    """What was unusual; None where nothing was."""
    if not run.incidents:
        return None
    in_order = sorted(run.incidents, key=lambda line: int(line.get("step", 0)))
    rows = [[f"{int(line.get('step', 0)):,}", *_incident(line)] for line in in_order[:SHOWN_INCIDENTS]]
    left = len(in_order) - len(rows)
    more = say("and {count:,} more", count=left) if left else ""
    return {**table([say("step"), say("what"), say("what was done")], rows), "more": more}


def novelty(run: RunRecord) -> dict[str, Any] | None:
    """How much of the generated text is copied, next to held-out text; None where it was not measured."""
    if run.novelty is None:
        return None
    written, held_out = run.novelty["written"], run.novelty["held_out"]
    rows = [
        [
            say("in {least} tokens in a row or more", least=least),
            f"{share:.1%}",
            f"{held_out['copied_share'].get(least, 0.0):.1%}",
        ]
        for least, share in written["copied_share"].items()
    ]
    longest = written.get("longest")
    found = table([say("copied from the training text"), say("written by the model"), say("written by people")], rows)
    if longest:
        found["longest"] = say(
            "The longest copy has {tokens:,} tokens and is from {source}:",
            tokens=longest["tokens"],
            source=longest["source"],
        )
        found["longest_text"] = longest["text"][:600]
    return found


def environment(run: RunRecord) -> Rows:
    """Machine and versions."""
    found = run.description.get("environment") or {}
    data = run.description["data"]
    rows = [[say("device"), str(run.plan["device_name"])]]
    rows += [[str(name), f"{value}"] for name, value in found.items()]
    rows.append([say("fingerprint of the text"), str(data.get("fingerprint", ""))[:16]])
    rows.append([say("seed"), str(run.plan["seed"])])
    return rows


def _tile(name: str, value: str, note: str) -> dict[str, str]:
    return {"name": name, "value": value, "note": note}


def _samples_note(run: RunRecord) -> str:
    return say("{count:,} samples", count=int(run.plan["train_samples"]))


def _plan_value(name: str, value: object) -> str:
    if value is None:
        return "\u2013"
    if isinstance(value, bool):
        return say("yes") if value else say("no")
    if name.endswith("_bytes") and isinstance(value, int | float):
        return formatting.memory(value)
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int) and name != "seed":
        return f"{value:,}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _incident(line: dict[str, Any]) -> list[str]:
    kind = line.get("kind")
    if kind == "nonfinite":
        samples = "; ".join(map(str, line.get("samples") or []))
        what = say("the {what} became no number", what=line.get("what", ""))
        return [what, f"{line.get('action', '')}{': ' if samples else ''}{samples}"]
    if kind == "loss_spike":
        what = say(
            "the loss was {loss:.3f}, far above the usual {usual:.3f}",
            loss=number_or(line.get("train_loss", 0), math.inf),
            usual=number_or(line.get("usual_loss", 0), math.inf),
        )
        return [what, say("training went on")]
    if kind == "out_of_memory":
        done = say(
            "{tokens:,} tokens at once, {times} times a step, with the same update",
            tokens=int(line.get("tokens_per_micro_batch", 0)),
            times=int(line.get("micro_batches", 0)),
        )
        return [say("the driver swapped") if line.get("was_slow") else say("memory ran out"), done]
    return [say("a checkpoint could not be saved"), str(line.get("reason", ""))]


Mood = Literal["good", "bad", "open"]


@dataclass(frozen=True)
class RunVerdict:
    """Outcome of a run: whether it improved, its status, and a sentence."""

    mood: Mood
    status: str
    sentence: str


def verdict_on(run: RunRecord) -> RunVerdict:
    """Judge a run by its evaluations."""
    status = {
        "finished": say("finished"),
        "interrupted": say("interrupted"),
    }.get(run.status, say("not finished"))
    before, best = run.before, run.best
    if before is None or best is None:
        return RunVerdict(
            "open",
            status,
            say("There is no evaluation to judge by yet: {steps:,} steps were made.", steps=run.last_step),
        )
    if best.loss >= before.loss:
        return RunVerdict(
            "bad",
            status,
            say(
                "The model did not get better at this text: perplexity on text it had not seen was {before} before "
                "training and is {best} at best.",
                before=perplexity(before.perplexity),
                best=perplexity(best.perplexity),
            ),
        )
    gain = 1 - best.perplexity / before.perplexity
    if run.status == "finished":
        sentence = say(
            "The model learned your text: perplexity on text it had not seen fell from {before} to {best}, {gain:.0%} "
            "lower.",
            before=perplexity(before.perplexity),
            best=perplexity(best.perplexity),
            gain=gain,
        )
        return RunVerdict("good", status, sentence)
    sentence = say(
        "So far, after {steps:,} of {all:,} steps, perplexity on text it had not seen fell from {before} to {best}, "
        "{gain:.0%} lower.",
        steps=run.last_step,
        all=int(run.plan["steps"]),
        before=perplexity(before.perplexity),
        best=perplexity(best.perplexity),
        gain=gain,
    )
    return RunVerdict("open", status, sentence)


NOT_REPEATED = {"sources", "out", "resume", "json", "quiet", "dashboard"}


def repeating_command(asked: dict[str, Any], out: str) -> str:
    """Return the command that repeats a run in the folder `out`; flags at their defaults are left out."""
    words = ["tunesmith", "train", *map(str, asked.get("sources") or [])]
    for flag in fields(TrainConfig):
        value = asked.get(flag.name)
        default = list(flag.default) if isinstance(flag.default, tuple) else flag.default
        if flag.name in NOT_REPEATED or value is None or default is MISSING or value == default:
            continue
        name = f"--{flag.name.replace('_', '-')}"
        if isinstance(value, bool):
            words += [name] if value else [f"--no-{name[2:]}"]
        else:
            words += [name, *map(str, value if isinstance(value, list) else [value])]
    return shlex.join([*words, "--out", out])
