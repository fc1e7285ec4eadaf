"""The web application: OpenAI's paths, health, metrics, and the page."""

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
from tunesmith.serving.api_errors import APIError, JsonResponse
from tunesmith.serving.auth import AuthMiddleware
from tunesmith.serving.completion_request import read_body
from tunesmith.serving.completions import CompletionsEndpoint
from tunesmith.serving.metrics import Metrics
from tunesmith.serving.overlap import read_overlap_request
from tunesmith.serving.served_model import ServedModel, find_model
from tunesmith.serving.server import RequestFinished

PAGE = Path(str(files("tunesmith"))) / "serving" / "page"


def make_app(
    models: Sequence[ServedModel],
    config: ServeConfig,
    *,
    token: str | None,
    on_start: Callable[[], object] = lambda: None,
    on_request_finished: Callable[[RequestFinished], object] = lambda _finished: None,
) -> Starlette:
    """Return an ASGI application whose workers start with it.

    Args:
        models: loaded; the first one answers where a request names none.
        config: limits, and the host it is bound to.
        token: that clients must send.
        on_start: called when it starts; connections are accepted a moment later, and none is refused before.
        on_request_finished: called after every completion request.
    """
    metrics = Metrics(models)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
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

    async def overlap(request: Request) -> Response:
        name, text = read_overlap_request(await read_body(request))
        model = find_model(models, name)
        if model.training_data is None:
            raise APIError(
                404,
                "the training data of {model} is unknown; specify it: --training-data FILE",
                code="training_data_unknown",
                model=model.name,
            )
        return JsonResponse({"matches": await to_thread(model.training_data.find_overlaps, text)})

    async def health(_request: Request) -> Response:
        is_well = all(model.worker.is_alive for model in models)
        return JsonResponse({"status": "ok" if is_well else "failed"}, 200 if is_well else 503)

    async def show_metrics(_request: Request) -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    completions = CompletionsEndpoint(models, config, metrics, on_request_finished)
    return Starlette(
        routes=[
            Route("/", _page),
            Mount("/page", StaticFiles(directory=PAGE)),
            Route("/health", health),
            Route("/metrics", show_metrics),
            Route("/v1/models", list_models),
            Route("/v1/models/{name:path}", describe_model),
            Route("/v1/completions", completions.create, methods=["POST"]),
            Route("/v1/overlap", overlap, methods=["POST"]),
        ],
        middleware=[Middleware(AuthMiddleware, host=config.host, token=token)],
        exception_handlers={APIError: _api_error, HTTPException: _not_found, Exception: _server_failed},
        lifespan=lifespan,
    )


async def _page(_request: Request) -> Response:
    return FileResponse(PAGE / "index.html", headers={"Cache-Control": "no-cache"})


async def _api_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, APIError)
    return error.response()


async def _not_found(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    name = f"{request.method} {request.url.path}"[:80]
    return APIError(error.status_code, "there is nothing at {name}", code="not_found", name=name).response()


async def _server_failed(_request: Request, error: Exception) -> Response:
    """Our bug; its traceback goes to the server's log."""
    reason = type(error).__name__
    return APIError(500, "the server failed: {reason}", code="server_failed", reason=reason).response()
