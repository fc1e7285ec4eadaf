"""The end of a run on the terminal: what was learned, what it cost, what was predicted, what to do next."""

import shlex
import shutil
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from tunesmith.generation.generate import GeneratedText
from tunesmith.interfaces.run_tables import grid
from tunesmith.interfaces.tables import printable
from tunesmith.messages.catalogue import say
from tunesmith.training.events import Sampled, TrainResult
from tunesmith.utils import formatting

SHOWN_OF_A_SAMPLE = 200


def summary(result: TrainResult, samples: Sequence[Sampled], *, model: str = "", report: str | None = None) -> str:
    """What was learned, what the model writes now, and what to do next.

    Args:
        result: of the run.
        samples: that were written in it; the first and the last are shown.
        model: what was started from, to compare with.
        report: the report's file, if there is one.
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
        lines += ["", say("before training it writes:") if before else say("after training it writes:")]
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
    marked = f"{cut or say('(nothing)')}{'' if text.finish_reason == 'stop' else ' ' + say('[goes on]')}"
    console = Console(width=shutil.get_terminal_size().columns)
    return "\n".join(f"  {line.plain.rstrip()}" for line in Text(marked).wrap(console, console.width - 2))
