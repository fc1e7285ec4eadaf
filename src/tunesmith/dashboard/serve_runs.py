"""`serve --runs DIR`: the runs in a folder as pages that follow them, until it is told to end."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tunesmith.config import ServeConfig
from tunesmith.errors import UserError
from tunesmith.serving.server import base_url, check_exposure, check_extra, listen, page_url, resolve_api_key, run_app


@dataclass(frozen=True)
class ServingRuns:
    """Where it is served.

    Attributes:
        url: of the page on this machine, with the token if there is one.
        folder: that the runs stand in.
    """

    url: str
    folder: Path


def serve_runs(config: ServeConfig, *, on_ready: Callable[[ServingRuns], object] = lambda _serving: None) -> None:
    """Serve until Ctrl-C or SIGTERM.

    Raises:
        UserError: if it cannot be served.
    """
    assert config.runs is not None
    check_extra("tunesmith serve")
    token = resolve_api_key(config)
    check_exposure(config.host, token)
    folder = Path(config.runs)
    if not folder.is_dir():
        raise UserError(
            "{folder} is no folder", hint="name the folder that your runs stand in: tunesmith runs DIR", folder=folder
        )
    from tunesmith.dashboard.app import make_app

    with listen(config.host, config.port) as listening:
        ready = ServingRuns(page_url(base_url(listening), token), folder)
        run_app(make_app(folder, host=config.host, token=token, on_start=lambda: on_ready(ready)), listening)
