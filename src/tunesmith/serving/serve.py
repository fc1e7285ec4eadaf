"""The verb `serve`: models in, a server with OpenAI's completions and a page until it is told to end."""

import socket
import time
from collections.abc import Callable

from tunesmith.config import ServeConfig
from tunesmith.errors import UserError
from tunesmith.serving.address import listen, url_of
from tunesmith.serving.events import Answered, Serving
from tunesmith.serving.hosting import page_of, refuse_open_door, refuse_without_extra, run_app, token_of


def serve_models(
    config: ServeConfig,
    *,
    on_ready: Callable[[Serving], object] = lambda _serving: None,
    on_answer: Callable[[Answered], object] = lambda _answered: None,
) -> None:
    """Serve until Ctrl-C or SIGTERM; answers that have begun are finished.

    Args:
        config: what to serve, and where.
        on_ready: told when the server listens.
        on_answer: told of every request for completions that is done with.

    Raises:
        UserError: if it cannot be served.
    """
    refuse_without_extra("tunesmith serve")
    token = token_of(config)
    _refuse_impossible(config, token)
    with listen(config.host, config.port) as listening:
        _serve(config, token, listening, on_ready, on_answer)


def _serve(
    config: ServeConfig,
    token: str | None,
    listening: socket.socket,
    on_ready: Callable[[Serving], object],
    on_answer: Callable[[Answered], object],
) -> None:
    from tunesmith.serving.app import make_app
    from tunesmith.serving.served_model import load_models

    models = load_models(config, now_s=int(time.time()))
    url = url_of(listening)
    ready = Serving(page_of(url, token), f"{url}/v1", models)
    run_app(make_app(models, config, token=token, on_start=lambda: on_ready(ready), on_answer=on_answer), listening)


def _refuse_impossible(config: ServeConfig, token: str | None) -> None:
    limits = [
        ("--batch-size", config.batch_size, config.batch_size == "auto" or config.batch_size >= 1),
        ("--max-waiting", config.max_waiting, config.max_waiting >= 1),
        ("--max-new-tokens", config.max_new_tokens, config.max_new_tokens >= 1),
        ("--max-seconds", config.max_seconds, 0 < config.max_seconds < float("inf")),
    ]
    for flag, value, allowed in limits:
        if not allowed:
            raise UserError(
                "{flag} {value} makes no sense", hint="write a number that is at least 1", flag=flag, value=value
            )
    refuse_open_door(config.host, token)
    if len(set(config.models)) < len(config.models):
        raise UserError("the same model is named twice", hint="name each MODEL once")
