"""`push`, spoken by the real hub library to a small server on loopback."""

import base64
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

import tunesmith
from tunesmith.cli import main
from tunesmith.errors import UserError

Serve = Callable[..., AbstractContextManager[tuple[str, list[str]]]]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub(BaseHTTPRequestHandler):
    """Takes what the hub takes for a new repository, and keeps every byte."""

    asked_for: list[str]
    arrived: dict[str, bytes]
    created: list[dict[str, object]]
    status = 200

    def do_GET(self) -> None:
        self._read()
        if self.status in {401, 403}:
            self._answer({"error": "not allowed"}, self.status)
        else:
            self._answer({"error": "not found"}, 404, {"X-Error-Code": "RepoNotFound"})

    def do_POST(self) -> None:
        body = self._read()
        path = self.path.split("?")[0]
        assert self.headers["Authorization"] == "Bearer hf_of_nobody"
        if path == "/api/repos/create":
            self.created.append(json.loads(body))
            host = self.headers["Host"]
            self._answer({"url": f"http://{host}/someone/small", "name": "someone/small", "id": "someone/small"})
        elif path == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
        elif path.endswith("/preupload/main"):
            files = [file["path"] for file in json.loads(body)["files"]]
            modes = [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in files]
            self._answer({"files": modes})
        elif path.endswith("/commit/main"):
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.arrived[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            commit = {"commitOid": COMMIT, "commitUrl": f"http://{self.headers['Host']}/someone/small/commit/{COMMIT}"}
            self._answer({"success": True, **commit, "hookOutput": ""})
        else:
            self._answer({"error": f"unexpected {path}"}, 500)

    def _read(self) -> bytes:
        self.asked_for.append(f"{self.command} {self.path}")
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _answer(self, content: dict[str, object], status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "application/json")
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        """Keep the tests' output clean."""


def push(model: Path, endpoint: str, home: Path, *flags: str) -> tuple[int, str, str]:
    """Run `tunesmith push` against a hub; its library reads the address at import."""
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0"}
    environment |= {"NO_PROXY": "127.0.0.1", "HF_TOKEN": "hf_of_nobody"}
    command = [sys.executable, "-m", "tunesmith", "push", str(model), "someone/small", *flags]
    answer = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
    return answer.returncode, answer.stdout, answer.stderr


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one step with all that it leaves."""
    place = tmp_path_factory.mktemp("push")
    text = place / "secret.txt"
    text.write_text("\n".join(f"Secret number {number}." for number in range(20)), encoding="utf-8")
    tunesmith.train(text, model="tiny", out=place / "run", max_steps=1)
    assert (place / "run" / "checkpoints").is_dir()
    return place / "run"


def test_the_model_arrives_and_nothing_else(serve: Serve, run: Path, tmp_path: Path) -> None:
    """Every byte of config, weights, tokenizer and card; no checkpoint, no samples, no text of the run."""
    arrived: dict[str, bytes] = {}
    created: list[dict[str, object]] = []
    with serve(FakeHub, arrived=arrived, created=created) as (endpoint, _):
        code, out, err = push(run, endpoint, tmp_path / "hf", "--private", "--json")
    assert code == 0, err
    expected = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert set(arrived) == {*expected, "README.md"}
    assert all(content == (run / name).read_bytes() for name, content in arrived.items())
    assert not any(b"Secret number" in content for content in arrived.values())
    assert (created[0]["name"], created[0]["organization"]) == ("small", "someone")
    assert created[0].get("private") is True or created[0].get("visibility") == "private"
    result = json.loads(out)
    assert (result["repo"], result["commit"], result["url"]) == ("someone/small", COMMIT, f"{endpoint}/someone/small")
    assert result["files"] == {name: len(content) for name, content in arrived.items()}


@pytest.mark.parametrize(("status", "hint"), [(401, "hf auth login"), (403, "may not write there")])
def test_a_refusal_is_one_line(serve: Serve, run: Path, tmp_path: Path, status: int, hint: str) -> None:
    """A token that is not valid, or that may not write."""
    with serve(FakeHub, arrived={}, created=[], status=status) as (endpoint, _):
        code, _, err = push(run, endpoint, tmp_path / "hf")
    assert code == 1
    assert [line.split(":")[0] for line in err.splitlines()] == ["error", "hint"]
    assert hint in err


def test_a_silent_hub_is_given_up(run: Path, tmp_path: Path) -> None:
    """One that accepts and never answers ends in one clear error."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        code, _, err = push(run, f"http://127.0.0.1:{server.getsockname()[1]}", tmp_path / "hf")
    assert code == 1
    assert "the model hub cannot be reached" in err


def test_mistakes(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A name that cannot be, nobody signed in, no model, pickled weights: before anything is asked."""
    with pytest.raises(UserError, match="not a valid repository name"):
        tunesmith.push(run, "some one/small")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    assert main(["push", str(run), "someone/small"]) == 1
    assert "not signed in" in capsys.readouterr().err
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (bare / name).write_bytes((run / name).read_bytes())
    with pytest.raises(UserError, match="no weights as safetensors"):
        tunesmith.push(bare, "someone/small")
    with pytest.raises(UserError, match="model folder not found"):
        tunesmith.push("./nowhere", "someone/small")
