"""Diagnose a run directory: how the run ended, what went wrong in it, and whether it improved the model."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.diagnostics.matcher import rule_named
from tunesmith.i18n import say
from tunesmith.run_dir import METRICS, RunDir, number_or
from tunesmith.utils.files import parse_json

UNKNOWN = "unknown"
OVERFIT_RATIO = 1.02
"""Of the last validation perplexity to the best one; below it the difference is noise."""
FEW_SAMPLES = 100

Lines = list[dict[str, Any]]


@dataclass(frozen=True)
class Cause:
    """One cause with its evidence, in the person's language; `name` is that of a rule, or of a finding in a run."""

    name: str
    cause: str
    evidence: tuple[str, ...]
    fix: str

    def as_json(self) -> dict[str, Any]:
        """As in `tunesmith explain --json`."""
        return vars(self) | {"evidence": list(self.evidence)}


@dataclass(frozen=True)
class Explanation:
    """What `explain` found.

    Attributes:
        source: what was read.
        causes: the likeliest first; empty where none is known.
        others: less specific matches.
    """

    source: str
    causes: tuple[Cause, ...]
    others: tuple[Cause, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The keys of `tunesmith explain --json`."""
        first, *more = (*self.causes, *self.others) if self.causes else (Cause(UNKNOWN, "", (), ""), *self.others)
        return {"source": self.source, **first.as_json(), "more": [cause.as_json() for cause in more]}


def explain_run(folder: Path) -> Explanation:
    """Everything abnormal in a run, the gravest first.

    Raises:
        UserError: if the folder's run.json is damaged.
    """
    run = RunDir(folder)
    description = run.read_metadata()
    lines = metrics(folder)
    causes = (
        *_how_it_ended(run, description, lines),
        *_nonfinite(lines),
        *_full_disk(folder, lines),
        *_overfit(lines),
        *_spikes(lines),
        *_out_of_memory(lines),
        *_few_samples(description),
    )
    return Explanation(str(folder), causes or (_all_well(folder, description),))


def metrics(folder: Path) -> Lines:
    """The lines of metrics.jsonl, without one that a crash cut off."""
    path = folder / METRICS
    lines = []
    for line in path.read_text("utf-8", errors="replace").splitlines() if path.is_file() else []:
        try:
            value = parse_json(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            lines.append(value)
    return lines


def _of_kind(kind: str, lines: Lines) -> Lines:
    return [line for line in lines if line.get("kind") == kind]


def _last_step(lines: Lines) -> int:
    return max((int(line.get("step", 0)) for line in lines), default=0)


def _how_it_ended(run: RunDir, description: dict[str, Any], lines: Lines) -> Iterator[Cause]:
    status = description["result"]["status"]
    if status == "finished":
        return
    checkpoints = run.checkpoints()
    steps = description["plan"].get("steps", 0)
    evidence = [
        say("run.json: {status}", status=status),
        say("metrics.jsonl: the last line is of step {step:,} of {steps:,}", step=_last_step(lines), steps=steps),
        say("checkpoints: {names}", names=", ".join(folder.name for folder in checkpoints) or say("none")),
    ]
    resume = f"tunesmith train --resume --out {run.path}"
    if status == "interrupted":
        stopped_by = description["result"].get("stopped_by", "")
        yield Cause(
            "stopped-on-purpose",
            say("the run was stopped and everything saved ({by})", by=stopped_by or say("Ctrl-C or a signal")),
            tuple(evidence),
            resume,
        )
    elif run.is_locked():
        yield Cause(
            "still-running", say("the run is still in progress"), tuple(evidence), say("wait until it has finished")
        )
    else:
        yield Cause(
            "ended-unexpectedly",
            say(
                "the run ended without saving: it was killed (memory of the machine, a scheduler), the power failed, "
                "or the machine was restarted"
            ),
            tuple(evidence),
            say("{command} continues from the last checkpoint; nothing else is lost", command=resume),
        )


def _nonfinite(lines: Lines) -> Iterator[Cause]:
    bad = _of_kind("nonfinite", lines)
    if not bad:
        return
    samples = dict.fromkeys(sample for line in bad for sample in line.get("samples", []))
    evidence = [
        say(
            "step {step:,}: the {what} became NaN or Inf; {action}",
            step=line["step"],
            what=line["what"],
            action=line["action"],
        )
        for line in bad[:3]
    ]
    rule = rule_named("nonfinite-loss")
    yield Cause(
        rule.name,
        say("{count:,} steps had NaN or Inf", count=len(bad)),
        (*evidence, *samples),
        say("check the samples above, and correct or remove them") if samples else say(rule.fix),
    )


def _full_disk(folder: Path, lines: Lines) -> Iterator[Cause]:
    failed = _of_kind("checkpoint_failed", lines)
    if failed:
        rule = rule_named("disk-full")
        yield Cause(
            rule.name,
            say("{count:,} checkpoints could not be saved", count=len(failed)),
            tuple(say("step {step:,}: {reason}", step=line["step"], reason=line["reason"]) for line in failed[:3]),
            say(rule.fix).replace("DIR", str(folder)),
        )


def _overfit(lines: Lines) -> Iterator[Cause]:
    evaluations = [
        {**line, "val_perplexity": number_or(line["val_perplexity"], math.inf)}
        for line in _of_kind("eval", lines)
        if line.get("step", 0) > 0
    ]
    if len(evaluations) < 2:
        return
    best = min(evaluations, key=lambda line: line["val_perplexity"])
    last = evaluations[-1]
    if last["val_perplexity"] > OVERFIT_RATIO * best["val_perplexity"]:
        yield Cause(
            "overfit",
            say(
                "after step {step:,} the model overfitted the training text; the result is the model of that step",
                step=best["step"],
            ),
            (
                say(
                    "validation perplexity {best:.2f} at step {step:,}, {last:.2f} at step {last_step:,}",
                    best=best["val_perplexity"],
                    step=best["step"],
                    last=last["val_perplexity"],
                    last_step=last["step"],
                ),
            ),
            say("fewer epochs (--epochs {epochs:.1f}), more text, or adapters: --lora-r 8", epochs=best["epoch"]),
        )


def _spikes(lines: Lines) -> Iterator[Cause]:
    spikes = _of_kind("loss_spike", lines)
    if spikes:
        yield Cause(
            "loss-spikes",
            say("{count:,} steps had a loss far above the usual one", count=len(spikes)),
            tuple(
                say(
                    "step {step:,}: {loss:.3f}, usually {usual:.3f}",
                    step=line["step"],
                    loss=number_or(line["train_loss"], math.inf),
                    usual=number_or(line["usual_loss"], math.inf),
                )
                for line in spikes[:3]
            ),
            say("a lower --learning-rate; odd samples: tunesmith prepare SOURCE shows them"),
        )


def _out_of_memory(lines: Lines) -> Iterator[Cause]:
    retries = _of_kind("out_of_memory", lines)
    if retries:
        last = retries[-1]
        yield Cause(
            "out-of-memory-retries",
            say(
                "memory ran out {count:,} times; each step was retried in smaller micro-batches, nothing was lost",
                count=len(retries),
            ),
            (
                say(
                    "since step {step:,}: micro-batches of {tokens:,} tokens, {times:,} a step",
                    step=last["step"],
                    tokens=last["tokens_per_micro_batch"],
                    times=last["micro_batches"],
                ),
            ),
            say("nothing; closing other programs on the GPU makes training faster (tunesmith doctor lists them)"),
        )


def _few_samples(description: dict[str, Any]) -> Iterator[Cause]:
    samples = description["plan"].get("train_samples", FEW_SAMPLES)
    if samples < FEW_SAMPLES:
        yield Cause(
            "few-samples",
            say("the run trains on {count:,} samples; losses of so small a data set are unreliable", count=samples),
            (say("run.json: train_samples {count:,}", count=samples),),
            say("more text; or set with --split-on where a sample ends: tunesmith prepare SOURCE shows the samples"),
        )


def _all_well(folder: Path, description: dict[str, Any]) -> Cause:
    outcome = description["result"]
    return Cause(
        "all-well",
        say("the run finished, and nothing in it is out of the ordinary"),
        (
            say(
                "perplexity {before:.2f} before, {after:.2f} after {steps:,} steps",
                before=number_or(outcome["base_perplexity"], math.inf),
                after=number_or(outcome["perplexity"], math.inf),
                steps=outcome["steps"],
            ),
        ),
        f"tunesmith generate {folder} -n 5",
    )
