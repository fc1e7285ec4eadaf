"""Render the live page: the list of runs, a run's report, and the bar above it. Users' text is escaped."""

from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from tunesmith.config import RunsConfig
from tunesmith.dashboard.run_state import RunState
from tunesmith.i18n import say
from tunesmith.reporting.html import report_page
from tunesmith.reporting.run_list import list_runs, status_words
from tunesmith.reporting.run_reader import read_run
from tunesmith.run_dir import SAVE, STOP
from tunesmith.utils.formatting import duration, perplexity


def list_of_runs(folder: Path) -> str:
    """List every run with its results so far, the newest first."""
    return _render(
        "runs.html.jinja",
        {
            "title": say("Runs"),
            "folder": str(folder.resolve()),
            "none": say("There is no run here yet."),
            "head": [say("run"), say("status"), say("model"), say("steps"), say("perplexity"), say("time")],
            "runs": [_row(run) for run in list_runs(RunsConfig(str(folder)))],
        },
    )


def report_of(folder: Path) -> str:
    """Render the current report, without a frame."""
    return report_page(read_run(folder), frame="fragment.html.jinja")


def bar_of(state: RunState, *, is_one_of_many: bool) -> str:
    """Render the progress of a run, and its buttons."""
    return _render(
        "bar.html.jinja",
        {
            "state": state,
            "is_one_of_many": is_one_of_many,
            "where": _where(state),
            "pending": _pending(state),
            "words": {
                "all_runs": say("All runs"),
                "progress": say("Progress"),
                "save": say("Save now"),
                "stop": say("Stop ..."),
                "sure": say("Stop this training?"),
                "what_stop_does": say(
                    "It finishes its step and saves everything. This continues later where it was stopped:"
                ),
                "resume": f"tunesmith train --resume --out {state.out}",
                "do_stop": say("Stop"),
                "go_on": say("Continue training"),
            },
        },
    )


def shell_words() -> dict[str, str]:
    """Texts that the page shows when the server cannot be reached."""
    return {
        "lost": say("tunesmith does not answer any more; this is what it said last."),
        "over": say("The run is over, and its server has ended with it. report.html in the run's folder stays."),
        "token": say("This server needs its token: open the address that it printed, with #token=..."),
    }


def _row(run: dict[str, Any]) -> dict[str, Any]:
    before, best = run["base_perplexity"], run["perplexity"]
    shown = (
        ""
        if best is None
        else perplexity(best)
        if before is None
        else f"{perplexity(before)} \u2192 {perplexity(best)}"
    )
    return {
        "name": run["name"],
        "is_running": run["status"] == "running",
        "cells": [
            status_words(run["status"]),
            run["model"],
            f"{run['steps']:,} / {run['planned_steps']:,}",
            shown,
            duration(run["duration_s"]),
        ],
    }


def _where(state: RunState) -> str:
    parts = [status_words(state.status), say("step {step:,} of {steps:,}", step=state.step, steps=state.steps)]
    if state.eta_s is not None:
        parts.append(say("{left} left", left=duration(state.eta_s)))
    if state.saved_step is not None and state.status != "finished":
        parts.append(say("saved at step {step:,}", step=state.saved_step))
    return " · ".join(parts)


def _pending(state: RunState) -> str:
    if not state.is_running:
        return ""
    if STOP in state.pending_actions:
        return say("It stops after this step ...")
    return say("It saves after this step ...") if SAVE in state.pending_actions else ""


def _render(template: str, parts: dict[str, Any]) -> str:
    return _templates().get_template(template).render(parts)


@cache
def _templates() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("tunesmith.dashboard", "page"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
