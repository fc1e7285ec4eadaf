"""Render reports: one HTML file with everything in it, readable offline.

The template engine escapes all text from users; the page's own policy blocks every fetch.
"""

import shlex
from collections.abc import Sequence
from datetime import datetime
from functools import cache
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup

from tunesmith import __version__
from tunesmith.i18n import get_language, say
from tunesmith.reporting import tables
from tunesmith.reporting.advice import advice_for
from tunesmith.reporting.charts import Chart, learning_charts, machine_charts
from tunesmith.reporting.run_reader import RunRecord
from tunesmith.reporting.samples import sample_history
from tunesmith.reporting.tables import repeating_command, verdict_on
from tunesmith.run_dir import RUN_FILE


def report_page(run: RunRecord, *, frame: str = "frame.html.jinja") -> str:
    """Render the report on a run; `fragment.html.jinja` is the frame for a page that follows the run."""
    parts: dict[str, Any] = {
        "title": say("{name}: training report", name=run.name),
        "name": run.name,
        "when": datetime.fromtimestamp((run.path / RUN_FILE).stat().st_mtime).astimezone().strftime("%Y-%m-%d %H:%M"),
        "verdict": verdict_on(run),
        "tiles": tables.tiles(run),
        "advice": advice_for(run),
        "learning": drawn(learning_charts(run)),
        "samples": sample_history(run),
        "incidents": tables.incidents(run),
        "machine": drawn(machine_charts(run)),
        "text": tables.text_facts(run),
        "novelty": tables.novelty(run),
        "novelty_command": shlex.join(["tunesmith", "report", str(run.path), "--memorization", "50"]),
        "plan": tables.plan_choices(run),
        "settings": tables.all_settings(run),
        "predicted": tables.predicted(run),
        "command": repeating_command(run.asked, f"{run.asked.get('out', run.name)}-again"),
        "environment": tables.environment(run),
        "words": _words(),
    }
    titles = (
        ("advice", parts["words"]["advice"]),
        ("learning", parts["words"]["learning"]),
        ("samples", parts["words"]["samples"]),
        ("incidents", parts["words"]["incidents"]),
        ("machine", parts["words"]["machine"]),
    )
    always = tuple((key, parts["words"][key]) for key in ("text", "novelty", "plan", "again"))
    contents = [{"key": key, "title": title} for key, title in titles if parts[key]]
    contents += [{"key": key, "title": title} for key, title in always]
    return render("report.html.jinja", {**parts, "contents": contents}, frame=frame)


def drawn(charts: Sequence[Chart]) -> list[dict[str, Any]]:
    """Page parts of the charts that have something to show."""
    return [parts for chart in charts if (parts := chart.as_page_parts())]


def chart_words() -> dict[str, str]:
    """Texts of every chart."""
    return {"as_table": say("As a table"), "in_table": say("Its table has the numbers.")}


def render(template: str, parts: dict[str, Any], *, frame: str = "frame.html.jinja") -> str:
    """Render a template within a frame."""
    page = files("tunesmith.reporting").joinpath("page")
    style, script = (page.joinpath(name).read_text("utf-8") for name in ("style.css", "hover.js"))
    around = {
        "frame": frame,
        "language": get_language(),
        "style": Markup(style),  # noqa: S704  our own files
        "script": Markup(script),  # noqa: S704
        "footer": say("Written by tunesmith {version}. This file needs no network.", version=__version__),
    }
    return _templates().get_template(template).render(around | parts)


@cache
def _templates() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("tunesmith.reporting", "page"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _words() -> dict[str, str]:
    return {
        **chart_words(),
        "contents": say("Contents"),
        "advice": say("What to make of it"),
        "learning": say("Learning"),
        "samples": say("What it writes"),
        "samples_note": say("The same prompts with the same seeds, as the model learned."),
        "goes_on": say("[continues]"),
        "incidents": say("What happened on the way"),
        "machine": say("Machine"),
        "text": say("Text"),
        "text_facts": say("The text in numbers"),
        "lengths": say("Samples by length, in tokens"),
        "sources": say("Sources"),
        "novelty": say("Novelty"),
        "novelty_note": say("How much of what it generates is copied from the training text"),
        "no_novelty": say("How much it copies from its training text was not measured. This does:"),
        "plan": say("Plan"),
        "plan_note": say("What was decided before the first step, and why"),
        "all_settings": say("Every value of the plan, and the parts of memory"),
        "predicted": say("Predicted and measured"),
        "again": say("Do it again"),
        "environment": say("Machine and versions"),
    }
