"""Select the generated samples of a run for its report."""

from collections import defaultdict
from typing import Any

import numpy as np

from tunesmith.i18n import say
from tunesmith.reporting.run_reader import RunRecord

MOST_PROMPTS = 8
MOST_TEXTS = 10
"""Of one prompt: the first, the last, and some between."""
SHOWN_CHARACTERS = 1200


def sample_history(run: RunRecord) -> list[dict[str, Any]]:
    """Prompts with their texts through training."""
    by_prompt: dict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
    for line in run.samples:
        by_prompt[str(line["prompt"]), int(line["seed"])].append(line)
    return [
        {"title": title_of(prompt, seed), "texts": [_shown(line) for line in _some(lines)]}
        for (prompt, seed), lines in list(by_prompt.items())[:MOST_PROMPTS]
    ]


def last_samples(run: RunRecord) -> dict[tuple[str, int], dict[str, Any]]:
    """Latest text of each prompt and seed."""
    return {(str(line["prompt"]), int(line["seed"])): line for line in run.samples}


def title_of(prompt: str, seed: int) -> str:
    """Title of the samples of one prompt and seed."""
    if prompt:
        return say("after \u201c{prompt}\u201d (seed {seed})", prompt=_cut(prompt, 120), seed=seed)
    return say("from nothing (seed {seed})", seed=seed)


def parts_of(line: dict[str, Any]) -> dict[str, str]:
    """Split a sample into prompt and continuation."""
    prompt, text = str(line["prompt"]), _cut(str(line["text"]), SHOWN_CHARACTERS)
    return (
        {"given": prompt, "written": text[len(prompt) :]} if text.startswith(prompt) else {"given": "", "written": text}
    )


def _some(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Select at most `MOST_TEXTS` texts, without what the kept model generated twice."""
    final_steps = {line["step"] for line in lines if line.get("is_final")}
    once = [line for line in lines if line.get("is_final") or line["step"] not in final_steps or line["step"] == 0]
    if len(once) <= MOST_TEXTS:
        return once
    return [once[index] for index in np.unique(np.linspace(0, len(once) - 1, MOST_TEXTS).astype(int))]


def _shown(line: dict[str, Any]) -> dict[str, Any]:
    step, is_final = int(line["step"]), bool(line.get("is_final"))
    if is_final:
        label = say("kept model, step {step:,}", step=step)
    elif step:
        label = say("step {step:,}", step=step)
    else:
        label = say("before training")
    return {**parts_of(line), "label": label, "is_final": is_final, "goes_on": line.get("finish_reason") == "length"}


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[:most] + "\u2026"
