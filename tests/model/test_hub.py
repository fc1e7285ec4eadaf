"""MODEL names into folders; the hub is a small server on loopback, spoken to by the real hub library."""

import hashlib
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
import torch
from safetensors.torch import load_file

from tunesmith.errors import UserError
from tunesmith.model.hub import local_folder

Serve = Callable[..., AbstractContextManager[tuple[str, list[str]]]]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub(BaseHTTPRequestHandler):
    """Answers what the hub answers for one repository, `someone/small`."""

    folder: Path
    asked_for: list[str]

    def do_GET(self) -> None:
        files = sorted(self.folder.iterdir())
        if self.path.startswith("/api/models/someone/small/tree/"):
            listed = [{"type": "file", "path": f.name, "size": f.stat().st_size, "oid": COMMIT} for f in files]
            self._answer(json.dumps(listed).encode())
        elif self.path.startswith("/api/models/someone/small"):
            siblings = [{"rfilename": file.name} for file in files]
            self._answer(json.dumps({"id": "someone/small", "sha": COMMIT, "siblings": siblings}).encode())
        elif self.path.startswith("/someone/small/resolve/"):
            self._answer((self.folder / self.path.rsplit("/", 1)[1]).read_bytes())
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    do_HEAD = do_GET

    def _answer(self, body: bytes) -> None:
        self.asked_for.append(f"{self.command} {self.path.rsplit('/', 1)[1]}")
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        """Keep the tests' output clean."""


def generate(model: str, endpoint: str, cache: Path) -> subprocess.CompletedProcess[str]:
    """Run `tunesmith generate` against a hub; its library reads the address at import."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(cache),
        "HF_HUB_OFFLINE": "0",
        "NO_PROXY": "127.0.0.1",
    }
    command = [sys.executable, "-m", "tunesmith", "generate", model, "--json", "--max-new-tokens", "4"]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)


def test_downloads_what_it_reads_and_nothing_else(
    serve: Serve, make_model_folder: Callable[..., Path], tmp_path: Path
) -> None:
    """A hub model is fetched without its other formats, works, and is there offline afterwards."""
    folder = make_model_folder("served")
    for unwanted in ("tf_model.h5", "pytorch_model.bin", "model.onnx"):
        (folder / unwanted).write_bytes(b"not for us")
    with serve(FakeHub, folder=folder) as (endpoint, asked_for):
        answer = generate("someone/small", endpoint, tmp_path / "hf")
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout)[0]["tokens"]
    fetched = {name.removeprefix("GET ") for name in asked_for if name.startswith("GET ")}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= fetched
    assert not fetched & {"tf_model.h5", "pytorch_model.bin", "model.onnx"}
    offline = generate("someone/small", "http://127.0.0.1:9", tmp_path / "hf")
    assert offline.returncode == 0, offline.stderr
    assert json.loads(offline.stdout) == json.loads(answer.stdout)


def test_old_repositories_have_only_pickles(
    serve: Serve, make_model_folder: Callable[..., Path], tmp_path: Path
) -> None:
    """Where there are no safetensors the old weights are fetched, and work offline afterwards."""
    folder = make_model_folder("served")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with serve(FakeHub, folder=folder) as (endpoint, asked_for):
        answer = generate("someone/small", endpoint, tmp_path / "hf")
    assert answer.returncode == 0, answer.stderr
    assert "GET pytorch_model.bin" in asked_for
    assert generate("someone/small", "http://127.0.0.1:9", tmp_path / "hf").stdout == answer.stdout


def test_unknown_repository_is_named(serve: Serve, make_model_folder: Callable[..., Path], tmp_path: Path) -> None:
    """A hub id that does not exist is one error line with a hint."""
    with serve(FakeHub, folder=make_model_folder("served")) as (endpoint, _):
        answer = generate("someone/missing", endpoint, tmp_path / "hf")
    assert answer.returncode == 1
    assert "model not found: 'someone/missing'" in answer.stderr
    assert [line.split(":")[0] for line in answer.stderr.splitlines()] == ["error", "hint"]


def test_silent_hub_is_given_up(tmp_path: Path) -> None:
    """A hub that accepts and never answers ends in one clear error, not in a hang."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        answer = generate("gpt2", f"http://127.0.0.1:{server.getsockname()[1]}", tmp_path / "hf")
    assert answer.returncode == 1
    assert "the model hub cannot be reached" in answer.stderr
    assert "hint: name a local folder" in answer.stderr


@pytest.mark.parametrize("name", ["nothing", "./nothing", "/no/such/place", "a/b/c", "folder/"])
def test_mistyped_folder_asks_no_hub(name: str) -> None:
    """A name that can only be a path fails at once and names itself."""
    with pytest.raises(UserError, match="model folder not found"):
        local_folder(name)


def test_file_is_no_model(tmp_path: Path) -> None:
    """A file in place of a folder is refused."""
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"")
    with pytest.raises(UserError, match="is a file"):
        local_folder(str(file))


def test_offline_without_download_is_one_error() -> None:
    """Offline, a model that was never downloaded is refused with the way out."""
    with pytest.raises(UserError, match="was not downloaded before"):
        local_folder("someone/else")
