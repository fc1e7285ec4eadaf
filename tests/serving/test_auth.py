"""Who is let in, and where the server may listen."""

import socket
import urllib.error
import urllib.request
from types import SimpleNamespace

import pytest

from tunesmith.cli import main
from tunesmith.serving import server as server_module

JSON = {"Content-Type": "application/json"}


def status(url: str, body: bytes | None = None, **headers: str) -> int:
    """Of an answer."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, named)) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_pages_of_other_sites_are_kept_out(server: SimpleNamespace) -> None:
    """A name that was bent to point here, another site's page, and what a browser sends without asking first."""
    completions, body = f"{server.api}/completions", b'{"model": "small", "max_tokens": 1}'
    port = server.url.rpartition(":")[2]
    assert status(completions, body, Content_Type="application/json") == 200
    assert status(completions, body, Content_Type="application/json", Origin=server.url) == 200
    assert status(completions, body, Content_Type="application/json", Host=f"localhost:{port}") == 200
    assert status(completions, body, Content_Type="application/json", Host=f"[::1]:{port}") == 200
    assert status(completions, body, Content_Type="application/json", Host=f"evil.example:{port}") == 421
    assert status(server.url, Host="evil.example") == 421
    for origin in ("http://evil.example", "null", f"https://127.0.0.1:{port}", "http://127.0.0.1:1"):
        assert status(completions, body, Content_Type="application/json", Origin=origin) == 403
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        assert status(completions, body, Content_Type=kind) == 415


def test_answers_say_what_a_browser_may_do_with_them(server: SimpleNamespace) -> None:
    """Nothing from elsewhere is loaded, no frame around the page, no guessed types."""
    for path in ("/", "/page/main.js", "/v1/models", "/nothing"):
        try:
            with urllib.request.urlopen(server.url + path) as answer:
                headers = answer.headers
        except urllib.error.HTTPError as error:
            with error:
                headers = error.headers
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("path", ["/page/../app.py", "/page/%2e%2e/app.py", "/page/..%2fapp.py", "/page//etc/passwd"])
def test_paths_do_not_escape(path: str, server: SimpleNamespace) -> None:
    """Only what lies in the page's folder is given out."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection, connection.makefile("rb") as answer:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode())
        assert answer.readline().split()[1] == b"404"


def test_a_body_that_is_too_large_is_refused(server: SimpleNamespace) -> None:
    """At four megabytes."""
    assert status(f"{server.api}/completions", b" " * (5 * 2**20), Content_Type="application/json") == 413


MISTAKES = [
    (["serve"], 2, "no model was named", "tunesmith serve my-model"),
    (["serve", "tiny", "--host", "0.0.0.0"], 1, "lets other machines connect", "--api-key SECRET"),  # noqa: S104
    (["serve", "tiny", "--api-key", "short"], 1, "16 or more", "token_urlsafe"),
    (["serve", "tiny", "--host", "nowhere.invalid", "--api-key", "t" * 16], 1, "not an address of this", "127.0.0.1"),
    (["serve", "tiny", "--port", "70000"], 1, "--port 70000 is not a port", "0 for a free one"),
    (["serve", "tiny", "--max-queue", "0"], 1, "--max-queue 0 makes no sense", "at least 1"),
    (["serve", "tiny", "tiny"], 1, "named twice", "once"),
    (["serve", "./none", "--port", "0"], 1, "model folder not found: ./none", "check the path"),
]


@pytest.mark.parametrize(("arguments", "code", "message", "hint"), MISTAKES)
def test_mistakes_are_named(
    arguments: list[str], code: int, message: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before a model is loaded where that can be."""
    assert main(arguments) == code
    shown = capsys.readouterr().err
    assert message in shown
    assert hint in shown


def test_a_port_in_use_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """With another one to take."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "tiny", "--port", str(port)]) == 1
    shown = capsys.readouterr().err
    assert f"port {port} is in use" in shown
    assert f"--port {port % 65535 + 1}" in shown


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """With the command that installs it."""
    monkeypatch.setattr(server_module, "find_spec", lambda name: None if name == "uvicorn" else object())
    assert main(["serve", "tiny"]) == 1
    shown = capsys.readouterr().err
    assert "not installed: uvicorn" in shown
    assert "pip install 'tunesmith[serve]'" in shown
