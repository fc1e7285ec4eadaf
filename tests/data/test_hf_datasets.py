"""`hf:NAME:SPLIT`: a small server on loopback is the hub, spoken to by the real libraries."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from tunesmith.data.hf_datasets import HFDataset
from tunesmith.errors import UserError

Serve = Callable[..., AbstractContextManager[tuple[str, list[str]]]]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = "someone/log"


class FakeHub(BaseHTTPRequestHandler):
    """Answers what the hub answers for one dataset."""

    files: dict[str, bytes]
    asked_for: list[str]

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        self.asked_for.append(f"{self.command} {path}")
        if path.startswith(f"/api/datasets/{NAME}/tree/"):
            self._answer(json.dumps(self._listed()).encode())
        elif path in {f"/api/datasets/{NAME}", f"/api/datasets/{NAME}/revision/{COMMIT}"}:
            siblings = [{"rfilename": name} for name in self.files]
            self._answer(json.dumps({"id": NAME, "sha": COMMIT, "siblings": siblings}).encode())
        elif path.startswith(f"/datasets/{NAME}/resolve/") and path.rsplit("/", 1)[1] in self.files:
            self._answer(self.files[path.rsplit("/", 1)[1]])
        else:
            self._absent()

    do_HEAD = do_GET

    def do_POST(self) -> None:
        asked = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.asked_for.append(f"POST {self.path}")
        self._answer(json.dumps([entry for entry in self._listed() if str(entry["path"]) in asked]).encode())

    def _listed(self) -> list[dict[str, object]]:
        return [{"type": "file", "path": n, "size": len(c), "oid": COMMIT} for n, c in self.files.items()]

    def _answer(self, body: bytes) -> None:
        begin, end = 0, len(body)
        if wanted := self.headers.get("Range"):
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            begin, end = int(first), min(int(last or end) + 1, end)
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{len(body)}")
        self.send_header("Content-Length", str(end - begin))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[begin:end])

    def _absent(self) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", "EntryNotFound" if "/resolve/" in self.path else "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_arguments: object) -> None:
        """Keep the tests' output clean."""


def prepare(source: str, endpoint: str, cache: Path) -> subprocess.CompletedProcess[str]:
    """Run `tunesmith prepare` against a hub; its library reads the address at import."""
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(cache / "hf"), "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-m", "tunesmith", "prepare", source, "--tokenizer", "tiny", "--json"]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def lines(name: str, n: int) -> bytes:
    """A split as JSON Lines."""
    return "".join(json.dumps({"id": i, "text": f"{name} night {i}: lamp steady ☂"}) + "\n" for i in range(n)).encode()


def test_a_dataset_is_streamed_and_not_read_twice(serve: Serve, tmp_path: Path) -> None:
    """The split that was named becomes samples; the second time the commit alone says that nothing changed."""
    files = {"train.jsonl": lines("train", 40), "test.jsonl": lines("test", 10)}
    with serve(FakeHub, files=files) as (endpoint, asked_for):
        answer = prepare(f"hf:{NAME}", endpoint, tmp_path)
        assert answer.returncode == 0, answer.stderr + str(asked_for)
        report = json.loads(answer.stdout)
        assert report["samples"] == 40
        assert report["bytes"] == sum(len(f"train night {i}: lamp steady ☂".encode()) for i in range(40))
        assert report["sources"][0]["name"] == f"hf:{NAME}:train"
        assert report["sources"][0]["sha256"] == COMMIT
        read = [request for request in asked_for if "/resolve/" in request and ".jsonl" in request]
        assert read
        asked_for.clear()
        assert prepare(f"hf:{NAME}", endpoint, tmp_path).returncode == 0
        assert not [request for request in asked_for if ".jsonl" in request]
        other = prepare(f"hf:{NAME}:test", endpoint, tmp_path)
        assert json.loads(other.stdout)["samples"] == 10


def test_what_the_hub_does_not_have(serve: Serve, tmp_path: Path) -> None:
    """An unknown dataset, an unknown split and a dead hub: one error, one hint."""
    with serve(FakeHub, files={"train.jsonl": lines("train", 4)}) as (endpoint, _):
        for source in ("hf:someone/nothing", f"hf:{NAME}:nights"):
            answer = prepare(source, endpoint, tmp_path)
            assert answer.returncode == 1
            assert answer.stderr.startswith(f"error: {source}"), answer.stderr
            assert "hint: " in answer.stderr
            assert "Traceback" not in answer.stderr
    answer = prepare(f"hf:{NAME}", "http://127.0.0.1:9", tmp_path)
    assert answer.returncode == 1
    assert answer.stderr.startswith("error: hf:")


def test_a_source_needs_a_name() -> None:
    """`hf:` alone names nothing."""
    with pytest.raises(UserError, match="names no dataset"):
        HFDataset.parse("hf:")
