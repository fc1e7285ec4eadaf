"""Serve the live page: lists, reports, and requests to save or stop a run. It changes nothing else."""

from asyncio import to_thread
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from tunesmith.dashboard.run_state import state_of
from tunesmith.dashboard.views import bar_of, list_of_runs, report_of, shell_words
from tunesmith.errors import UserError
from tunesmith.reporting.run_list import runs_by_name
from tunesmith.run_dir import ACTIONS, RunDir
from tunesmith.serving.api_errors import APIError, JsonResponse
from tunesmith.serving.auth import INLINE_STYLES, AuthMiddleware

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
