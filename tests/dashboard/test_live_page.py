"""The live page: what its server says and whom it answers, beside a run and for a folder of runs, and in a browser."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import Request, urlopen

import pytest
from playwright.sync_api import expect, sync_playwright

import tunesmith
from tunesmith.run_dir import RunDir

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
HOSTILE = '<img src=x onerror="document.title=1"> \x1b[31m'
NIGHTS = "".join(f"Night {number}. Wind {number % 7}, lamp steady.\n" for number in range(400))


@contextmanager
def running(*arguments: object, reads: str = "stdout") -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """A command of ours and the first address that it says."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} if reads == "stderr" else {"stdout": subprocess.PIPE}
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "LC_ALL": "C.UTF-8"}
    command = [sys.executable, "-m", "tunesmith", *map(str, arguments)]
    with subprocess.Popen(command, text=True, env=environment, **pipes) as process:
        try:
            lines = process.stderr if reads == "stderr" else process.stdout
            assert lines is not None
            url = next(found[0] for line in lines if (found := re.search(r"http://127\.0\.0\.1:\d+", line)))
            yield url, process
        finally:
            process.terminate()
            process.communicate(timeout=60)


def get(url: str, **headers: str) -> str:
    """The body of an answer."""
    with urlopen(Request(url, headers=headers)) as answer:
        return str(answer.read().decode())


def status(url: str, method: str = "GET", **headers: str) -> int:
    """The number of an answer."""
    try:
        with urlopen(Request(url, method=method, headers=headers)) as answer:
            return int(answer.status)
    except HTTPError as error:
        error.close()
        return error.code


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs, one below a folder with a name that needs care, and a file beside them that is nobody's business."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "secret.txt").write_text("secret", encoding="utf-8")
    text = folder / "nights.txt"
    text.write_text(NIGHTS, encoding="utf-8")
    prompts = folder / "prompts.txt"
    prompts.write_text(f"{HOSTILE}\n", encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNESMITH_CACHE", str(tmp_path_factory.mktemp("cache")))
        options: dict[str, Any] = {"model": "tiny", "max_steps": 2, "device": "cpu", "sample_prompts": prompts}
        tunesmith.train(text, out=folder / "first", **options)
    shutil.copytree(folder / "first", folder / "a & b" / "sec#ond")
    return folder


def test_what_the_server_says(folder: Path) -> None:
    """The list, a run's state and report, and nothing beside the runs; users' text is shown and not obeyed."""
    with running("serve", "--runs", folder, "--port", 0, "--json", "--quiet") as (url, _):
        assert json.loads(get(f"{url}/strings"))["only"] is None
        listed = get(f"{url}/runs")
        assert 'href="#run=first"' in listed
        assert 'href="#run=a%20%26%20b/sec%23ond"' in listed
        assert "a &amp; b/sec#ond" in listed
        name = quote("a & b/sec#ond", safe="")
        state = json.loads(get(f"{url}/run/state?name={name}"))
        assert not state["is_running"]
        assert "finished" in state["bar"]
        assert "data-action" not in re.sub("(?s)<dialog.*", "", state["bar"])
        report = get(f"{url}/run/report?name={name}")
        assert "&lt;img src=x" in report
        assert "<img" not in report
        for stranger in ("..", "../first", "secret.txt", "", "none", str(folder / "first")):
            assert status(f"{url}/run/report?name={quote(stranger, safe='')}") == 404
        assert status(f"{url}/page/../../reporting/html.py") == 404
        assert status(f"{url}/page/%2e%2e/app.py") == 404


def test_who_may_request_actions(folder: Path) -> None:
    """Only of a run that goes on, and no page of another site, under whatever name it found us."""
    run = folder / "first"
    with running("serve", "--runs", run, "--port", 0, "--json", "--quiet") as (url, _):
        assert json.loads(get(f"{url}/strings"))["only"] == "first"
        save = f"{url}/run/actions/save?name=first"
        assert status(save, "POST") == 409
        description = json.loads((run / "run.json").read_text("utf-8"))
        going_on = {**description, "result": {"status": "running"}}
        (run / "run.json").write_text(json.dumps(going_on), encoding="utf-8")
        try:
            with RunDir(run).lock():
                assert status(save, "POST", Origin="http://elsewhere.example") == 403
                assert status(save, "POST", Host="elsewhere.example") == 421
                assert status(save) == 405
                assert status(f"{url}/run/actions/delete?name=first", "POST") == 404
                assert RunDir(run).pending_actions() == ()
                assert status(save, "POST", Origin=url) == 202
                assert RunDir(run).pending_actions() == ("save",)
                state = json.loads(get(f"{url}/run/state?name=first"))
                assert state["is_running"]
                assert "It saves after this step" in state["bar"]
            assert status(save, "POST") == 409
            assert "broken off" in json.loads(get(f"{url}/run/state?name=first"))["bar"]
        finally:
            (run / "run.json").write_text(json.dumps(description), encoding="utf-8")
            (run / "checkpoints" / ".request-save").unlink(missing_ok=True)


def test_mistakes(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A folder that is none, and both kinds of server at once."""
    from tunesmith.cli import main

    assert main(["serve", "--runs", str(tmp_path / "none")]) == 1
    assert "is not a folder" in capfd.readouterr().err
    assert main(["serve", "tiny", "--runs", str(tmp_path)]) == 2
    assert "--runs" in capfd.readouterr().err
    assert main(["serve", "--runs", str(tmp_path), "--host", "0.0.0.0"]) == 1  # noqa: S104
    assert "lets other machines connect" in capfd.readouterr().err


@pytest.fixture
def training(tmp_path: Path) -> Callable[[], Any]:
    """A function that starts a long training with its page."""
    text = tmp_path / "nights.txt"
    text.write_text(NIGHTS, encoding="utf-8")
    flags = ["--model", "tiny", "--device", "cpu", "--epochs", "500", "--eval-steps", "100000", "--dashboard"]
    return lambda: running("train", text, *flags, "--out", tmp_path / "run", reads="stderr")


def test_beside_a_training(training: Callable[[], Any], tmp_path: Path) -> None:
    """`train --dashboard` says where; a stop through its server ends the run as Ctrl-C does."""
    with training() as (url, process):
        name = json.loads(get(f"{url}/strings"))["only"]
        assert name == "run"
        assert json.loads(get(f"{url}/run/state?name=run"))["is_running"]
        assert status(f"{url}/run/actions/stop?name=run", "POST", Origin=url) == 202
        _, said = process.communicate(timeout=120)
        assert process.returncode == 130
        assert "tunesmith train --resume" in said
        assert not json.loads(get(f"{url}/run/state?name=run"))["is_running"]  # it stays a while, for whoever looks
    outcome = json.loads((tmp_path / "run" / "run.json").read_text("utf-8"))["result"]
    assert outcome["status"] == "interrupted"


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_in_a_browser(training: Callable[[], Any], tmp_path: Path) -> None:
    """It follows, saves, asks before it stops, and leaves alone what the reader opened; nothing else is fetched."""
    with training() as (url, process), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        errors: list[str] = []
        addresses: list[str] = []
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: addresses.append(request.url))
        page.goto(url)
        expect(page.locator("#chart-loss .line").first).to_be_attached(timeout=60_000)
        page.locator("#plan details summary").click()

        def step() -> int:
            return int(re.search(r"step ([\d,]+) of", page.inner_text("#bar .where"))[1].replace(",", ""))  # type: ignore[index]

        seen = step()
        page.wait_for_function(f"() => {seen} < Number(document.querySelector('#bar progress').value)", timeout=60_000)
        page.click("[data-action=save]")
        expect(page.locator("#bar .where")).to_contain_text(re.compile("saved at step [1-9]"), timeout=60_000)
        assert any(path.name != "step-00000000" for path in (tmp_path / "run" / "checkpoints").glob("step-*"))
        assert page.locator("#plan details").evaluate("details => details.open")
        page.click("[data-opens=sure]")
        page.get_by_role("button", name="Continue training").click()
        assert process.poll() is None
        page.click("[data-opens=sure]")
        page.locator("dialog [data-action=stop]").click()
        expect(page.locator("#bar .where")).to_contain_text("interrupted", timeout=60_000)
        expect(page.locator(".badge")).to_have_text("interrupted")
        assert errors == []
        assert [address for address in addresses if not address.startswith(url)] == []
        browser.close()
        process.communicate(timeout=60)
        assert process.returncode == 130
