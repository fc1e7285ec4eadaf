"""What a run folder says of itself: how it ended, what went wrong in it, and whether it learned."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tunesmith.explaining.explanation import Cause, Explanation
from tunesmith.files import parse_json
from tunesmith.messages.catalogue import say
from tunesmith.run_dir import METRICS, RunDir, number_or
from tunesmith.symptoms.table import named

WORSE_BY = 1.02
"""A last evaluation so many times above the best one is overfitting and not chance."""
FEW_SAMPLES = 100
BAD_STEP = ("step", "what", "action")
GIB = 1 << 30

Lines = list[dict[str, Any]]


def explain_run(folder: Path) -> Explanation:
    """Everything that is not as it should be, the gravest first; where nothing is, that.

    Raises:
        UserError: if the folder's run.json is damaged.
    """
    run = RunDir(folder)
    description = run.read_metadata()
    lines = metrics(folder)
    causes = (
        *_how_it_ended(run, description, lines),
        *_bad_numbers(lines),
        *_full_disk(folder, lines),
        *_overfitted(lines),
        *_spikes(lines),
        *_shrunk(lines),
        *_few_samples(description),
    )
    return Explanation(str(folder), causes or (_all_well(folder, description),))


def metrics(folder: Path) -> Lines:
    """The lines of metrics.jsonl; one that a crash has halved is left out."""
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


def _of(kind: str, lines: Lines) -> Lines:
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
    go_on = f"tunesmith train --resume --out {run.path}"
    if status == "interrupted":
        by = description["result"].get("stopped_by", "")
        yield Cause(
            "stopped-on-purpose",
            say("the run was stopped and everything saved ({by})", by=by or say("Ctrl-C or a signal")),
            tuple(evidence),
            go_on,
        )
    elif run.is_locked():
        yield Cause("still-running", say("the run is going on now"), tuple(evidence), say("wait for it"))
    else:
        yield Cause(
            "ended-without-a-word",
            say(
                "the run ended without being able to say why: it was killed (memory of the machine, a scheduler), the "
                "power failed, or the machine was restarted"
            ),
            tuple(evidence),
            say("{command} goes on from the last checkpoint; nothing else is lost", command=go_on),
        )


def _bad_numbers(lines: Lines) -> Iterator[Cause]:
    bad = _of("nonfinite", lines)
    if not bad:
        return
    samples = dict.fromkeys(sample for line in bad for sample in line.get("samples", []))
    evidence = [
        say(
            "step {step:,}: the {what} became no number; {action}",
            step=line["step"],
            what=line["what"],
            action=line["action"],
        )
        for line in bad[:3]
    ]
    symptom = named("loss-is-no-number")
    yield Cause(
        symptom.name,
        say("{count:,} steps had numbers that were none", count=len(bad)),
        (*evidence, *samples),
        say("look at the samples that are named and mend or remove them") if samples else say(symptom.fix),
    )


def _full_disk(folder: Path, lines: Lines) -> Iterator[Cause]:
    failed = _of("checkpoint_failed", lines)
    if failed:
        symptom = named("disk-full")
        yield Cause(
            symptom.name,
            say("{count:,} checkpoints could not be saved", count=len(failed)),
            tuple(say("step {step:,}: {reason}", step=line["step"], reason=line["reason"]) for line in failed[:3]),
            say(symptom.fix).replace("DIR", str(folder)),
        )


def _overfitted(lines: Lines) -> Iterator[Cause]:
    evaluations = [
        {**line, "val_perplexity": number_or(line["val_perplexity"], math.inf)}
        for line in _of("eval", lines)
        if line.get("step", 0) > 0
    ]
    if len(evaluations) < 2:
        return
    best = min(evaluations, key=lambda line: line["val_perplexity"])
    last = evaluations[-1]
    if last["val_perplexity"] > WORSE_BY * best["val_perplexity"]:
        yield Cause(
            "overfitted",
            say(
                "after step {step:,} the model learned the text by heart; the result is the model of that step",
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
            say("fewer epochs (--epochs {epochs:.1f}), more text, or adapters: --lora-rank 8", epochs=best["epoch"]),
        )


def _spikes(lines: Lines) -> Iterator[Cause]:
    spikes = _of("loss_spike", lines)
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


def _shrunk(lines: Lines) -> Iterator[Cause]:
    shrunk = _of("out_of_memory", lines)
    if shrunk:
        last = shrunk[-1]
        yield Cause(
            "memory-ran-out",
            say(
                "memory ran out {count:,} times; each step was made again in smaller pieces, nothing was lost",
                count=len(shrunk),
            ),
            (
                say(
                    "since step {step:,}: {tokens:,} tokens at once, {times:,} times a step",
                    step=last["step"],
                    tokens=last["tokens_per_micro_batch"],
                    times=last["micro_batches"],
                ),
            ),
            say("nothing; close other programs on the card to be faster (tunesmith doctor names them)"),
        )


def _few_samples(description: dict[str, Any]) -> Iterator[Cause]:
    samples = description["plan"].get("train_samples", FEW_SAMPLES)
    if samples < FEW_SAMPLES:
        yield Cause(
            "few-samples",
            say("the run learns from {count:,} samples; figures on so few say little", count=samples),
            (say("run.json: train_samples {count:,}", count=samples),),
            say("more text; or tell with --split-on where a sample ends: tunesmith prepare SOURCE shows what is taken"),
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
