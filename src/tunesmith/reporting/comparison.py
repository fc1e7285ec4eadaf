"""The command `runs --compare`: differing settings, results, curves laid over each other, and samples."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tunesmith.config import RunsConfig
from tunesmith.errors import UsageError, UserError
from tunesmith.i18n import say
from tunesmith.reporting import tables
from tunesmith.reporting.charts import compared_charts
from tunesmith.reporting.html import chart_words, drawn, render
from tunesmith.reporting.run_list import list_runs
from tunesmith.reporting.run_reader import RunRecord, read_run
from tunesmith.reporting.samples import last_samples, parts_of, title_of
from tunesmith.utils import formatting
from tunesmith.utils.files import write_text

FEWEST, MOST = 2, 4
NEVER_EQUAL = {"out", "resume", "json", "quiet", "lang", "report_to", "sample_prompts"}
"""Settings that change nothing of what is learned."""
DECIDED = (
    "device_name",
    "precision",
    "steps",
    "tokens_per_step",
    "context_length",
    "learning_rate",
    "warmup_steps",
    "memory_mode",
    "fused_backward",
)
MOST_PROMPTS = 8


def list_or_compare_runs(config: RunsConfig) -> list[dict[str, Any]] | dict[str, Any]:
    """Run the command `runs`: compare the runs of `--compare`, else list a folder's."""
    return compare_runs(config) if config.compare else list_runs(config)


def compare_runs(config: RunsConfig) -> dict[str, Any]:
    """Compare runs, and write the page if one is requested.

    Raises:
        UserError: for too few or too many runs, a folder that is not a run, or a file that cannot be written.
    """
    if config.sort != "time":
        raise UsageError(
            "--sort orders the list of runs and has no effect with --compare", hint="leave out --sort or --compare"
        )
    if not FEWEST <= len(config.compare) <= MOST:
        raise UserError(
            "--compare takes from {fewest} to {most} runs, not {count}",
            hint="for example: tunesmith runs --compare first-run second-run",
            fewest=FEWEST,
            most=MOST,
            count=len(config.compare),
        )
    runs = [read_run(Path(path)) for path in config.compare]
    names = short_names(config.compare)
    result = {
        "runs": list(names),
        "settings": differing_settings(runs),
        "figures": [_figures(run) for run in runs],
        "same_text": len({run.description["data"].get("fingerprint") for run in runs}) == 1,
        "report": config.out,
    }
    if config.out:
        path = Path(config.out)
        if path.is_dir():
            raise UserError("--out {path} is a folder", hint="name a file, for example {path}/compared.html", path=path)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, _page(runs, names, result))
    return result


def short_names(paths: Sequence[str]) -> list[str]:
    """Folder names; the full paths where two names are equal."""
    last = [Path(path).resolve().name for path in paths]
    return last if len(set(last)) == len(last) else list(paths)


def differing_settings(runs: Sequence[RunRecord]) -> dict[str, list[Any]]:
    """Settings that differ, with one value for each run."""
    names = dict.fromkeys(name for run in runs for name in run.asked if name not in NEVER_EQUAL)
    asked = {name: [run.asked.get(name) for run in runs] for name in names}
    decided = {name: [run.plan.get(name) for run in runs] for name in DECIDED}
    # what was decided counts, where something was asked and decided
    return {name: values for name, values in (asked | decided).items() if any(value != values[0] for value in values)}


def figures_table(figures: Sequence[dict[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """Results with a column for each run."""
    rows = [
        (say("validation perplexity before"), "base_perplexity", formatting.perplexity),
        (say("validation perplexity, best"), "perplexity", formatting.perplexity),
        (say("best step"), "best_step", lambda value: f"{value:,}"),
        (say("steps"), "steps", lambda value: f"{value:,}"),
        (say("trained on, tokens"), "tokens", lambda value: f"{value:,}"),
        (say("time"), "duration_s", formatting.duration),
        (say("speed"), "tokens_per_s", formatting.rate),
        (say("peak memory"), "peak_memory_bytes", formatting.memory),
        (say("energy"), "energy_joules", formatting.energy),
    ]
    cells = [
        [name, *("\u2013" if one[key] is None else said(one[key]) for one in figures)]
        for name, key, said in rows
        if any(one[key] is not None for one in figures)
    ]
    return tables.table(["", *names], cells)


def settings_table(settings: dict[str, list[Any]], names: Sequence[str]) -> dict[str, Any]:
    """Differing settings with a column for each run."""
    rows = [[name.replace("_", " "), *map(_setting, values)] for name, values in settings.items()]
    return tables.table([say("setting"), *names], rows)


def winner_sentence(result: dict[str, Any]) -> str:
    """State which run was best, or that the texts differ and cannot be compared."""
    if not result["same_text"]:
        return say("The runs were measured on different texts: their perplexities cannot be compared.")
    known = [
        (figures["perplexity"], name)
        for figures, name in zip(result["figures"], result["runs"], strict=True)
        if figures["perplexity"] is not None
    ]
    if len(known) < FEWEST:
        return say("There are not enough evaluations to compare yet.")
    known.sort()
    return say(
        "{name} came out best: validation perplexity {best}, against {next} of {other}.",
        name=known[0][1],
        best=formatting.perplexity(known[0][0]),
        other=known[1][1],
        next=formatting.perplexity(known[1][0]),
    )


def _figures(run: RunRecord) -> dict[str, Any]:
    before, best = run.before, run.best
    return {
        "base_perplexity": before.perplexity if before else None,
        "perplexity": best.perplexity if best else None,
        "best_step": best.step if best else None,
        "steps": run.last_step,
        "tokens": tables.tokens(run),
        "duration_s": tables.duration_s(run),
        "tokens_per_s": tables.tokens_per_s(run),
        "peak_memory_bytes": tables.peak_memory_bytes(run),
        "energy_joules": tables.energy_joules(run),
    }


def _page(runs: Sequence[RunRecord], names: Sequence[str], result: dict[str, Any]) -> str:
    return render(
        "comparison.html.jinja",
        {
            "title": say("{names}: compared", names=say(" and ").join(names)),
            "sentence": winner_sentence(result),
            "figures": figures_table(result["figures"], names),
            "settings": settings_table(result["settings"], names),
            "charts": drawn(compared_charts(runs, names)),
            "samples": _samples(runs, names),
            "words": {
                **chart_words(),
                "figures": say("What came of it"),
                "settings": say("What was set differently"),
                "no_difference": say("Nothing: the runs were asked the same."),
                "curves": say("Curves"),
                "samples": say("What they write"),
            },
        },
    )


def _samples(runs: Sequence[RunRecord], names: Sequence[str]) -> list[dict[str, Any]]:
    """Latest texts for the prompts and seeds that all runs share."""
    latest = [last_samples(run) for run in runs]
    shared = [key for key in latest[0] if all(key in other for other in latest)]
    return [
        {
            "title": title_of(prompt, seed),
            "texts": [
                {**parts_of(texts[prompt, seed]), "label": name} for texts, name in zip(latest, names, strict=True)
            ],
        }
        for prompt, seed in shared[:MOST_PROMPTS]
    ]


def _setting(value: object) -> str:
    if value is None:
        return "\u2013"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
