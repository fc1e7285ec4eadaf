"""Advice for the next run: rules over measured values. A rule reports only with the numbers that it is based on."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from tunesmith.i18n import say
from tunesmith.reporting.run_reader import Floats, RunRecord
from tunesmith.utils.formatting import memory

Weight = Literal["problem", "hint", "good"]

OVERFIT_NATS = 0.02
"""By so much the last validation loss has to lie above the best one; less is noise of the split."""
STILL_FALLING_NATS = 0.02
"""By so much the last evaluation has to be better than the one before, at an unfinished descent."""
FEW_UPDATES = 100
FULL_SHARE = 0.6
"""Of the effective batch, below which a step counts as starving."""
FEW_VALIDATION_SAMPLES, FEW_VALIDATION_TOKENS = 20, 2_000
WAITING_SHARE = 0.1
IDLE_PERCENT = 60.0
ENOUGH_READINGS = 5
CLIPPED_NORMS = 10.0
"""Times the limit; longer gradients on most steps are not outliers any more."""
MANY_SPIKES = 3
HOT_CELSIUS = 84.0
MORE_MEMORY = 1.15


@dataclass(frozen=True)
class Advice:
    """One finding; `rule` is its name in every language, `action` is empty where nothing is to be done."""

    rule: str
    weight: Weight
    title: str
    evidence: str
    action: str


def advice_for(run: RunRecord) -> list[Advice]:
    """Return what the rules find, problems first; without problems, what went well."""
    found = [advice for rule in RULES if (advice := rule(run))]
    order: list[Weight] = ["problem", "hint", "good"]
    found.sort(key=lambda one: order.index(one.weight))
    if not any(one.weight == "problem" for one in found) and (well := _healthy(run)):
        found.insert(0, well)
    return found


def _not_better(run: RunRecord) -> Advice | None:
    before, best = run.before, run.best
    if before is None or best is None or best.loss < before.loss:
        return None
    return Advice(
        "not-better",
        "problem",
        say("It did not get better at this text"),
        say(
            "Validation loss was {before:.3f} nats per token before training and {best:.3f} at best, after step "
            "{step:,}, at a learning rate of {rate:g}.",
            before=before.loss,
            best=best.loss,
            step=best.step,
            rate=run.plan["learning_rate"],
        ),
        say("Try --learning-rate {rate:g}, or more text.", rate=_rounded(run.plan["learning_rate"] / 5)),
    )


def _overfitting(run: RunRecord) -> Advice | None:
    best, last = run.best, run.after[-1] if run.after else None
    if best is None or last is None or last.step == best.step or len(run.after) < 2:
        return None
    risen = last.loss - best.loss
    then, now = _training_loss(run, best.step), _training_loss(run, last.step)
    if risen < OVERFIT_NATS or then is None or now is None or now >= then:
        return None
    return Advice(
        "overfitting",
        "problem",
        say("It has been overfitting since step {step:,}", step=best.step),
        say(
            "Validation loss was lowest after step {step:,} ({best:.3f} nats per token) and rose to {last:.3f}, "
            "while the training loss went on falling, from {then:.3f} to {now:.3f}.",
            step=best.step,
            best=best.loss,
            last=last.loss,
            then=then,
            now=now,
        ),
        say(
            "The folder contains the model of step {step:,}, so nothing is lost. Next time --epochs {epochs:.2g} "
            "saves the time; more text, --dropout 0.1 or --lora-r 16 allow longer training.",
            step=best.step,
            epochs=max(best.epoch, 0.1),
        ),
    )


def _still_falling(run: RunRecord) -> Advice | None:
    after = run.after
    if run.status != "finished" or len(after) < 2 or after[-1] != run.best:
        return None
    fell = after[-2].loss - after[-1].loss
    if fell < STILL_FALLING_NATS:
        return None
    more = 2 * run.plan["epochs"]
    return Advice(
        "still-falling",
        "hint",
        say("It would still improve"),
        say(
            "The last evaluation was the best one: validation loss fell from {before:.3f} to {after:.3f} nats per "
            "token between steps {first:,} and {last:,}.",
            before=after[-2].loss,
            after=after[-1].loss,
            first=after[-2].step,
            last=after[-1].step,
        ),
        say(
            "Continue where it stopped: tunesmith train --resume --epochs {epochs:g} --out {out}",
            epochs=more,
            out=run.path,
        ),
    )


def _unstable(run: RunRecord) -> Advice | None:
    spikes = [line for line in run.incidents if line.get("kind") == "loss_spike"]
    bad = [line for line in run.incidents if line.get("kind") == "nonfinite" and not line.get("samples")]
    norms, limit = run.steps["grad_norm"], float(run.plan["max_grad_norm"])
    norms = norms[np.isfinite(norms)]
    late = norms[len(norms) // 4 :]
    clipped = float((late > CLIPPED_NORMS * limit).mean()) if len(late) >= ENOUGH_READINGS else 0.0
    diverged = _diverged(run)
    if len(spikes) < MANY_SPIKES and not bad and clipped < 0.5 and diverged is None:
        return None
    evidence = []
    if diverged is not None:
        evidence.append(
            say(
                "The training loss was {lowest:.3f} nats per token at its lowest and {last:.3f} in the end.",
                lowest=diverged[0],
                last=diverged[1],
            )
        )
    if spikes:
        steps = ", ".join(f"{int(line['step']):,}" for line in spikes[:3])
        evidence.append(
            say(
                "The loss jumped far above its usual value {count:,} times (steps {steps}).",
                count=len(spikes),
                steps=steps,
            )
        )
    if bad:
        evidence.append(
            say(
                "{count:,} updates gave no number (NaN or infinity), the first at step {step:,}, and no sample was to "
                "blame.",
                count=len(bad),
                step=int(bad[0]["step"]),
            )
        )
    if clipped >= 0.5:
        evidence.append(
            say(
                "The gradient was more than {times:g} times as long as --max-grad-norm {limit:g} in {share:.0%} of the "
                "steps.",
                times=CLIPPED_NORMS,
                limit=limit,
                share=clipped,
            )
        )
    rate = float(run.plan["learning_rate"])
    return Advice(
        "learning-rate-too-high",
        "problem",
        say("The learning rate is probably too high"),
        " ".join(evidence),
        say("It was {rate:g}: try --learning-rate {lower:g}.", rate=rate, lower=_rounded(rate / 3)),
    )


def _diverged(run: RunRecord) -> tuple[float, float] | None:
    """Lowest and last training loss, in eighths of the run, where it went up for good."""
    losses = run.steps["train_loss"]
    losses = losses[np.isfinite(losses)]
    if len(losses) < 8 * ENOUGH_READINGS:
        return None
    means = [float(part.mean()) for part in np.array_split(losses, 8)]
    lowest, last = min(means), means[-1]
    spread = float(np.std(np.array_split(losses, 8)[-1]))
    return (lowest, last) if last - lowest > max(0.3, 2 * spread) else None


def _few_updates(run: RunRecord) -> Advice | None:
    steps = int(run.plan["steps"])
    if steps >= FEW_UPDATES:
        return None
    fewer = max(int(run.plan["tokens_per_step"]) * steps // (2 * FEW_UPDATES), 128)
    return Advice(
        "too-few-updates",
        "hint",
        say("There were few updates"),
        say(
            "The run made {steps:,} updates of {tokens:,} tokens each; {few} or more are usual for a style to settle.",
            steps=steps,
            tokens=int(run.plan["tokens_per_step"]),
            few=FEW_UPDATES,
        ),
        say("More --epochs, more --max-steps, or smaller steps: --tokens-per-step {tokens}.", tokens=fewer),
    )


def _starving(run: RunRecord) -> Advice | None:
    tokens, steps = run.steps["tokens"], run.steps["step"]
    known = np.isfinite(tokens) & np.isfinite(steps)
    if known.sum() < 2:
        return None
    first, last = np.flatnonzero(known)[[0, -1]]
    mean = float((tokens[last] - tokens[first]) / max(steps[last] - steps[first], 1.0))
    requested = int(run.plan["tokens_per_step"])
    if mean >= FULL_SHARE * requested:
        return None
    return Advice(
        "batch-starving",
        "hint",
        say("Steps train on fewer tokens than requested"),
        say(
            "A step trained on {mean:,.0f} tokens on average, {share:.0%} of the effective batch of {requested:,}.",
            mean=mean,
            share=mean / requested,
            requested=requested,
        ),
        say("The text is short or its samples divide badly: --tokens-per-step {tokens}.", tokens=max(int(mean), 1)),
    )


def _validation_too_small(run: RunRecord) -> Advice | None:
    samples, tokens = int(run.plan["val_samples"]), int(run.plan["val_tokens"])
    if samples >= FEW_VALIDATION_SAMPLES and tokens >= FEW_VALIDATION_TOKENS:
        return None
    return Advice(
        "validation-too-small",
        "hint",
        say("The perplexity is a rough estimate"),
        say(
            "It is measured on {samples:,} samples with {tokens:,} tokens; from {enough} samples and {enough_tokens:,} "
            "tokens on it is steady.",
            samples=samples,
            tokens=tokens,
            enough=FEW_VALIDATION_SAMPLES,
            enough_tokens=FEW_VALIDATION_TOKENS,
        ),
        say("Raise --val-fraction (now {fraction:g}) or bring more text.", fraction=run.asked.get("val_fraction", 0.1)),
    )


def _waiting(run: RunRecord) -> Advice | None:
    waited, trained = run.steps["data_wait_s"], run.steps["training_s"]
    if not run.steps.has("data_wait_s") or not run.steps.has("training_s"):
        return None
    waited_s, trained_s = float(np.nanmax(waited)), float(np.nanmax(trained))
    share = waited_s / (waited_s + trained_s) if trained_s else 0.0
    if share < WAITING_SHARE:
        return None
    return Advice(
        "waiting-for-data",
        "problem",
        say("The device waits for data"),
        say(
            "{waited:.0f} s of {all:.0f} s were spent waiting for the next batch ({share:.0%}).",
            waited=waited_s,
            all=waited_s + trained_s,
            share=share,
        ),
        say("Close programs that use the CPU, or put the text on a faster disk."),
    )


def _idle_gpu(run: RunRecord) -> Advice | None:
    used = _finite(run.machine["gpu_utilization_percent"])
    if len(used) < ENOUGH_READINGS or float(used.mean()) >= IDLE_PERCENT:
        return None
    tokens = int(run.plan["tokens_per_micro_batch"])
    return Advice(
        "gpu-idle",
        "hint",
        say("The GPU is idle much of the time"),
        say(
            "It was busy {busy:.0f} % of the time, with {tokens:,} tokens at once.",
            busy=float(used.mean()),
            tokens=tokens,
        ),
        say("Larger steps keep it busy: --tokens-per-step {tokens}.", tokens=2 * int(run.plan["tokens_per_step"])),
    )


def _hot(run: RunRecord) -> Advice | None:
    celsius = _finite(run.machine["gpu_temperature_celsius"])
    if len(celsius) < ENOUGH_READINGS or float(np.quantile(celsius, 0.9)) < HOT_CELSIUS:
        return None
    return Advice(
        "hot",
        "hint",
        say("The GPU runs hot"),
        say(
            "It reached {top:.0f} °C; above about {limit:.0f} °C GPUs lower their clock.",
            top=float(celsius.max()),
            limit=HOT_CELSIUS,
        ),
        say("Better cooling, or a lower power limit: nvidia-smi -pl WATTS costs little speed."),
    )


def _left_out(run: RunRecord) -> Advice | None:
    samples = [
        sample for line in run.incidents if line.get("kind") == "nonfinite" for sample in line.get("samples") or []
    ]
    if not samples:
        return None
    return Advice(
        "samples-left-out",
        "hint",
        say("Some samples were left out"),
        say("They made the loss or the gradient no number: {samples}.", samples="; ".join(map(str, samples[:3]))),
        say("Look at them: damaged text is the usual cause."),
    )


def _more_memory(run: RunRecord) -> Advice | None:
    predicted, peaks = float(run.plan["peak_memory_bytes"]), _finite(run.steps["peak_memory_bytes"])
    if not len(peaks) or not predicted or float(peaks.max()) < MORE_MEMORY * predicted:
        return None
    return Advice(
        "more-memory",
        "hint",
        say("It took more memory than planned"),
        say(
            "Planned were {planned}, and {measured} were used.",
            planned=memory(predicted),
            measured=memory(float(peaks.max())),
        ),
        say("The next plan on this machine knows."),
    )


def _healthy(run: RunRecord) -> Advice | None:
    before, best = run.before, run.best
    if before is None or best is None:
        return None
    in_turn = [before, *run.after]
    fell = sum(later.loss < earlier.loss for earlier, later in pairwise(in_turn))
    return Advice(
        "healthy",
        "good",
        say("Training went well"),
        say(
            "Validation loss fell from {before:.3f} to {best:.3f} nats per token, and was lower than before in "
            "{fell} of {all} evaluations.",
            before=before.loss,
            best=best.loss,
            fell=fell,
            all=len(run.after),
        ),
        "",
    )


RULES: tuple[Callable[[RunRecord], Advice | None], ...] = (
    _not_better,
    _unstable,
    _overfitting,
    _waiting,
    _still_falling,
    _few_updates,
    _starving,
    _validation_too_small,
    _idle_gpu,
    _hot,
    _left_out,
    _more_memory,
)


def _training_loss(run: RunRecord, step: int) -> float | None:
    """The mean training loss around a step, over a twentieth of the run."""
    steps, losses = run.steps["step"], run.steps["train_loss"]
    width = max(run.last_step / 20, 2)
    near: Floats = losses[(np.abs(steps - step) <= width) & np.isfinite(losses)]
    return float(near.mean()) if len(near) else None


def _finite(values: Floats) -> Floats:
    return values[np.isfinite(values)]


def _rounded(value: float) -> float:
    """A learning rate as one would type it."""
    return float(f"{value:.1g}")
