"""The web application: OpenAI's paths, health, figures, and the page."""

from asyncio import get_running_loop, to_thread
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from tunesmith.config import ServeConfig
from tunesmith.serving.completions import Completions
from tunesmith.serving.copies import Copies
from tunesmith.serving.events import Answered
from tunesmith.serving.gate import Gate
from tunesmith.serving.json_response import JsonResponse
from tunesmith.serving.metrics import Metrics
from tunesmith.serving.refusal import Refusal
from tunesmith.serving.served_model import ServedModel, find_model

PAGE = Path(str(files("tunesmith"))) / "serving" / "page"


def make_app(
    models: Sequence[ServedModel],
    config: ServeConfig,
    *,
    token: str | None,
    on_start: Callable[[], object] = lambda: None,
    on_answer: Callable[[Answered], object] = lambda _answered: None,
) -> Starlette:
    """An ASGI application whose models begin to work when it starts.

    Args:
        models: loaded; the first one answers where a request names none.
        config: limits, and the host it is bound to.
        token: that clients have to know.
        on_start: called when it starts; connections are taken a moment later, and none is refused before.
        on_answer: told of every request for completions that is done with.
    """
    metrics = Metrics(models)

    @asynccontextmanager
    async def working(_app: Starlette) -> AsyncIterator[None]:
        for model in models:
            model.worker.start(get_running_loop())
        on_start()
        yield
        for model in models:
            await to_thread(model.worker.stop)

    async def list_models(_request: Request) -> Response:
        return JsonResponse({"object": "list", "data": [model.as_json() for model in models]})

    async def describe_model(request: Request) -> Response:
        return JsonResponse(find_model(models, request.path_params["name"]).as_json())

    async def health(_request: Request) -> Response:
        well = all(model.worker.is_alive for model in models)
        return JsonResponse({"status": "ok" if well else "failed"}, 200 if well else 503)

    async def figures(_request: Request) -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    async def page(_request: Request) -> Response:
        return FileResponse(PAGE / "index.html", headers={"Cache-Control": "no-cache"})

    return Starlette(
        routes=[
            Route("/", page),
            Mount("/page", StaticFiles(directory=PAGE)),
            Route("/health", health),
            Route("/metrics", figures),
            Route("/v1/models", list_models),
            Route("/v1/models/{name:path}", describe_model),
            Route("/v1/completions", Completions(models, config, metrics, on_answer).answer, methods=["POST"]),
            Route("/v1/copies", Copies(models).answer, methods=["POST"]),
        ],
        middleware=[Middleware(Gate, host=config.host, token=token)],
        exception_handlers={Refusal: _refused, HTTPException: _not_found, Exception: _failed},
        lifespan=working,
    )


async def _refused(_request: Request, refusal: Exception) -> Response:
    assert isinstance(refusal, Refusal)
    return refusal.response()


async def _not_found(request: Request, error: Exception) -> Response:
    """A path or a method that is not here."""
    assert isinstance(error, HTTPException)
    name = f"{request.method} {request.url.path}"[:80]
    return Refusal(error.status_code, "there is nothing at {name}", code="not_found", name=name).response()


async def _failed(_request: Request, error: Exception) -> Response:
    """Our bug; its traceback goes to the server's log."""
    reason = type(error).__name__
    return Refusal(500, "the server failed: {reason}", code="server_failed", reason=reason).response()
