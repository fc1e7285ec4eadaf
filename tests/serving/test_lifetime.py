"""Clients that hang up, limits, and the end of a server."""

import contextlib
import json
import re
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import SimpleNamespace
from typing import Any

import openai
import pytest

PATIENCE_S = 30
LONG = {"model": "tiny", "prompt": "Night 3.", "max_tokens": 4000, "min_tokens": 4000, "seed": 1}
StartServer = Callable[..., AbstractContextManager[SimpleNamespace]]


def post(server: SimpleNamespace, **asked: Any) -> socket.socket:
    """A request through a bare socket, its answer unread."""
    host, port = re.findall(r"http://([\d.]+):(\d+)", server.url)[0]
    body = json.dumps(asked).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
    connection = socket.create_connection((host, int(port)))
    connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    return connection


def figure(server: SimpleNamespace, name: str) -> float:
    """One of tiny's figures for Prometheus."""
    with urllib.request.urlopen(f"{server.url}/metrics") as answer:
        return float(re.findall(rf'^tunesmith_{name}{{model="tiny"}} (\S+)$', answer.read().decode(), re.MULTILINE)[0])


def wait_until(holds: Callable[[], bool]) -> None:
    """Fail if it never holds."""
    end = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_hangs_up_frees_its_places(stream: bool, server: SimpleNamespace) -> None:  # noqa: FBT001
    """Those that write and those that wait; texts of others go on."""
    with contextlib.closing(post(server, **LONG, n=70, stream=stream)):
        wait_until(lambda: figure(server, "sequences_running") == 64)
        wait_until(lambda: figure(server, "sequences_waiting") == 6)
    wait_until(lambda: figure(server, "sequences_running") + figure(server, "sequences_waiting") == 0)
    with openai.OpenAI(base_url=server.api, api_key="none") as client:
        assert client.completions.create(model="tiny", prompt="a", max_tokens=3).choices[0].text


def test_a_full_server_says_so(server: SimpleNamespace) -> None:
    """And takes requests again when there is room."""
    with (
        contextlib.closing(post(server, **LONG, n=120, stream=True)),
        openai.OpenAI(base_url=server.api, api_key="none", max_retries=0) as client,
    ):
        wait_until(lambda: figure(server, "sequences_running") == 64)
        with pytest.raises(openai.InternalServerError, match="tiny is busy: 120 texts") as caught:
            client.completions.create(model="tiny", prompt="a", n=100, max_tokens=3)
        assert caught.value.status_code == 503
        assert caught.value.response.headers["retry-after"] == "2"
    with openai.OpenAI(base_url=server.api, api_key="none", max_retries=8) as client:  # OpenAI's client asks again
        assert len(client.completions.create(model="tiny", prompt="a", n=100, max_tokens=3).choices) == 100


def test_figures_count(server: SimpleNamespace) -> None:
    """Tokens read and written, by model."""
    before = figure(server, "prompt_tokens_total"), figure(server, "generated_tokens_total")
    with openai.OpenAI(base_url=server.api, api_key="none") as client:
        usage = client.completions.create(
            model="tiny", prompt="Night 3.", n=2, max_tokens=9, extra_body={"min_tokens": 9}
        ).usage
    after = figure(server, "prompt_tokens_total"), figure(server, "generated_tokens_total")
    assert usage is not None
    assert (after[0] - before[0], after[1] - before[1]) == (usage.prompt_tokens, 18)


def test_sigterm_ends_after_the_running_answers(
    start_server: StartServer,
) -> None:
    """A stream that has begun is finished; nobody new is let in; the exit code is 0."""
    with start_server("tiny") as server:
        asked = {**LONG, "max_tokens": 300, "min_tokens": 300, "stream": True}
        with contextlib.closing(post(server, **asked)) as connection, connection.makefile("rb") as answer:
            while not answer.readline().startswith(b"data: "):
                pass
            server.process.send_signal(signal.SIGTERM)
            rest = answer.read()
        assert b"data: [DONE]" in rest
        assert rest.count(b'"finish_reason":"length"') == 1
        assert server.process.wait(timeout=PATIENCE_S) == 0
        with pytest.raises(ConnectionError):
            post(server, **asked)


def test_the_token_is_asked_for(guarded: SimpleNamespace, token: str) -> None:
    """By everything but the page and health; the address for the browser carries it where it is not sent."""
    root = guarded.api.removesuffix("/v1")
    assert guarded.url == f"{root}/#token={token}"
    for path in ("/", "/page/main.js", "/health"):
        with urllib.request.urlopen(root + path) as answer:
            assert answer.status == 200
    for path in ("/v1/models", "/metrics"):
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(root + path)
        with caught.value as refused:
            assert refused.status == 401
            assert token not in refused.read().decode()
    with openai.OpenAI(base_url=guarded.api, api_key="wrong") as client, pytest.raises(openai.AuthenticationError):
        client.models.list()
    with openai.OpenAI(base_url=guarded.api, api_key=token) as client:
        assert [model.id for model in client.models.list()] == ["tiny", "small"]


def test_the_time_limit_ends_texts_where_they_are(guarded: SimpleNamespace, token: str) -> None:
    """What was written stays; a text that never had its turn is refused."""
    asked = {**LONG, "max_tokens": 1_000_000, "min_tokens": 1_000_000}
    extra = {"min_tokens": asked.pop("min_tokens")}
    with openai.OpenAI(base_url=guarded.api, api_key=token, max_retries=0) as client:
        answer = client.completions.create(**asked, extra_body=extra)
        assert answer.choices[0].finish_reason == "length"
        assert answer.usage is not None
        assert 0 < answer.usage.completion_tokens < 1_000_000
        assert answer.choices[0].text
        with pytest.raises(openai.InternalServerError, match="before the text could begin"):
            client.completions.create(**asked, n=2, extra_body=extra)
