"""Serve the live page: lists, reports, and requests to save or stop a run. It changes nothing else."""

from asyncio import to_thread
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from tunesmith.config import RunsConfig
from tunesmith.dashboard.run_state import RunState, state_of
from tunesmith.errors import UserError
from tunesmith.i18n import say
from tunesmith.reporting.html import report_page
from tunesmith.reporting.run_list import list_runs, runs_by_name, status_words
from tunesmith.reporting.run_reader import read_run
from tunesmith.run_dir import ACTIONS, SAVE, STOP, RunDir
from tunesmith.serving.api_errors import APIError, JsonResponse
from tunesmith.serving.auth import INLINE_STYLES, AuthMiddleware
from tunesmith.utils.formatting import duration, perplexity

PACKAGE = Path(str(files("tunesmith")))
PAGE = PACKAGE / "dashboard" / "page"
REPORT_PAGE = PACKAGE / "reporting" / "page"


def make_app(folder: Path, *, host: str, token: str | None, on_start: Callable[[], object] = lambda: None) -> Starlette:
    """Make the ASGI application for a run, or a folder that contains runs.

    `on_start` is called at start; connections are accepted a moment later, and none is refused before.
    """

    @asynccontextmanager
    async def started(_app: Starlette) -> AsyncIterator[None]:
        on_start()
        yield

    async def shell(_request: Request) -> Response:
        return FileResponse(PAGE / "index.html")

    async def strings(_request: Request) -> Response:
        return JsonResponse({**shell_words(), "only": await to_thread(_only, folder)})

    async def runs(_request: Request) -> Response:
        return HTMLResponse(await to_thread(list_of_runs, folder))

    async def state(request: Request) -> Response:
        name, run = await to_thread(_find, folder, request)
        found = await to_thread(state_of, name, run)
        bar = bar_of(found, is_one_of_many=run != folder)
        return JsonResponse({"version": found.version, "is_running": found.is_running, "bar": bar})

    async def report(request: Request) -> Response:
        _, run = await to_thread(_find, folder, request)
        return HTMLResponse(await to_thread(report_of, run))

    async def request_action(request: Request) -> Response:
        name, run = await to_thread(_find, folder, request)
        wanted = request.path_params["action"]
        if wanted not in ACTIONS:
            raise APIError(404, "there is no action {action} for a run", code="not_found", action=wanted[:20])
        if not (await to_thread(state_of, name, run)).is_running:
            raise APIError(409, "no process works on the run {name} now", code="not_running", name=name)
        await to_thread(RunDir(run).request_action, wanted)
        return JsonResponse({"requested": wanted}, 202)

    return Starlette(
        routes=[
            Route("/", shell),
            Route("/page/report.css", _file(REPORT_PAGE / "style.css")),
            Route("/page/hover.js", _file(REPORT_PAGE / "hover.js")),
            Mount("/page", StaticFiles(directory=PAGE)),
            Route("/strings", strings),
            Route("/runs", runs),
            Route("/run/state", state),
            Route("/run/report", report),
            Route("/run/actions/{action}", request_action, methods=["POST"]),
        ],
        middleware=[Middleware(AuthMiddleware, host=host, token=token, styles=INLINE_STYLES)],
        exception_handlers={APIError: _refused, UserError: _unreadable},
        lifespan=started,
    )


def _find(folder: Path, request: Request) -> tuple[str, Path]:
    """Run with the requested name, looked up among the existing ones so that no name leads elsewhere."""
    name = request.query_params.get("name", "")
    run = runs_by_name(folder).get(name)
    if run is None:
        raise APIError(404, "there is no run {name} in {folder}", code="not_found", name=name[:80], folder=folder)
    return name, run


def _only(folder: Path) -> str | None:
    return next((name for name, path in runs_by_name(folder).items() if path == folder), None)


def _file(path: Path) -> Callable[[Request], Response]:
    return lambda _request: FileResponse(path)


async def _refused(_request: Request, refusal: Exception) -> Response:
    assert isinstance(refusal, APIError)
    return refusal.response()


async def _unreadable(_request: Request, error: Exception) -> Response:
    """Answer for a run that is damaged, or was removed meanwhile."""
    assert isinstance(error, UserError)
    return APIError(404, "{reason}", code="unreadable", reason=error.message).response()


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
