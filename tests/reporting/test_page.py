"""The report: whole, true to the metrics file, safe, small, in two languages, whatever became of the run."""

import json
import shutil
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tunesmith
from tunesmith.config import TrainConfig
from tunesmith.errors import UserError
from tunesmith.i18n import set_language
from tunesmith.reporting.run_reader import read_run
from tunesmith.training.events import StepLogged
from tunesmith.training.train import train_events

from .conftest import evaluation_line, step_line

Make = Callable[..., Path]
VOID = {"meta", "link", "br", "img", "hr"}
MOST_BYTES = 1_000_000


class Page(HTMLParser):
    """A page read by the standard library: its texts, its links, the data behind its charts, and whether tags match."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.ids: list[str] = []
        self.fetched: list[str] = []
        self.charts: dict[str, Any] = {}
        self.scripts = 0
        self.text = ""
        self._reading = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag not in VOID and not (found.get("d") and tag == "path"):
            self.open.append(tag)
        self.ids += [found["id"]] if found.get("id") else []
        self.fetched += [str(found[name]) for name in ("src", "href", "action", "data") if found.get(name)]
        self._reading = str(found.get("data-for") or "")
        self.scripts += tag == "script" and not self._reading

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Nothing stays open."""

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            if self._reading:
                self.charts[self._reading] = json.loads(data)
        elif self.open and self.open[-1] != "style":
            self.text += f"{data} "


def page_of(folder: Path, lang: str = "en") -> Page:
    """The report on a run: whole, small, and without a word to the network."""
    written = tunesmith.report(folder, lang=lang)
    path = Path(written["report"])
    assert path == folder / "report.html"
    assert path.stat().st_size == written["bytes"] < MOST_BYTES
    page = Page(path.read_text("utf-8"))
    assert (page.wrong, page.open) == ([], [])
    assert len(page.ids) == len(set(page.ids))
    assert [link for link in page.fetched if not link.startswith(("#", "data:"))] == []
    assert page.scripts == 1
    return page


@pytest.fixture(scope="module")
def broken_twice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real run of tiny that was interrupted and resumed twice."""
    folder = tmp_path_factory.mktemp("real")
    text = folder / "text.txt"
    text.write_text("".join(f"Night {n}: wind {n % 7}, <b>lamp</b> steady & clear.\n" for n in range(80)), "utf-8")
    prompts = folder / "prompts.txt"
    prompts.write_text("Night\nNacht\n", "utf-8")
    out = str(folder / "run")
    first = TrainConfig(
        (str(text),),
        model="tiny",
        out=out,
        context_length=64,
        tokens_per_step=256,
        max_steps=12,
        eval_steps=4,
        sample_prompts=str(prompts),
    )
    for config, stop_at in ((first, 3), (TrainConfig(out=out, resume=True), 7)):
        seen = {0}
        for event in train_events(
            config, stop=lambda seen=seen, stop_at=stop_at: max(seen) == stop_at, has_integrations=False
        ):  # type: ignore[misc]
            seen |= {event.step} if isinstance(event, StepLogged) else set()
    tunesmith.train(out=out, resume=True)
    return Path(out)


def test_a_run_that_was_broken_twice(broken_twice: Path) -> None:
    """One report at the end, with every step once, and each number as the metrics file has it."""
    assert (broken_twice / "report.html").is_file()  # without being asked for
    page = page_of(broken_twice)
    lines = [json.loads(line) for line in (broken_twice / "metrics.jsonl").read_text("utf-8").splitlines()]
    steps = [line for line in lines if line["kind"] == "step"]
    evaluations = [line for line in lines if line["kind"] == "eval"]
    assert [line["step"] for line in steps] == list(range(1, 13))
    smoothed, validation = page.charts["loss"]["series"]
    assert smoothed["said"] == [f"{line['train_loss']:.4f}" for line in steps]  # a short run: over one step
    assert validation["x"] == [line["step"] for line in evaluations] == [0, 4, 8, 12]
    assert validation["said"] == [f"{line['val_loss']:.4f}" for line in evaluations]
    rate = page.charts["rate"]["series"][0]
    assert rate["said"] == [f"{line['learning_rate']:.2e}" for line in steps]
    described = json.loads((broken_twice / "run.json").read_text("utf-8"))
    why = described["data"]["sources"][0]["reason"]
    assert why["text"].format(**why["values"]) in page.text
    outcome = described["result"]
    assert f"{outcome['base_perplexity']:.2f} \u2192 {outcome['perplexity']:.2f}" in page.text
    assert f"{steps[-1]['tokens']:,} tokens" in page.text
    speed = page.charts["speed"]["series"][0]
    passed = np.diff([0.0, *(line["training_s"] for line in steps)])
    learned = np.diff([0, *(line["tokens"] for line in steps)])
    assert speed["said"] == [f"{value:,.0f} tokens/s" for value in learned / passed]


def test_samples_through_time(broken_twice: Path) -> None:
    """Both prompts at every evaluation with the same seed, the kept model's once."""
    page = page_of(broken_twice)
    lines = [json.loads(line) for line in (broken_twice / "samples.jsonl").read_text("utf-8").splitlines()]
    assert [(line["step"], line["prompt"], line["seed"]) for line in lines] == [
        (step, prompt, seed) for step in (0, 4, 8, 12) for prompt, seed in (("Night", 42), ("Nacht", 43))
    ]
    plain = " ".join(page.text.split())
    for line in lines:
        assert " ".join(line["text"].removeprefix(line["prompt"]).split()) in plain
    assert plain.count("kept model, step 12") == 2


def test_bad_numbers(make_run: Make) -> None:
    """NaN and infinity in the metrics are gaps in the curves and rows among what happened."""
    lines = [step_line(step, float("nan") if step == 5 else 4.0, grad_norm=float("inf")) for step in range(1, 10)]
    bad = {"kind": "nonfinite", "step": 5, "what": "loss", "samples": ["a.txt:3: \x07odd"], "action": "left out"}
    page = page_of(make_run(lines=[*lines, bad, evaluation_line(9, float("nan"))]))
    assert "a.txt:3" in page.text
    assert "NaN" not in json.dumps(page.charts)
    assert "gradient" not in page.charts


def test_three_steps(make_run: Make) -> None:
    """A run that was over at once."""
    page = page_of(make_run(lines=[evaluation_line(0, 5.0), *(step_line(n, 4.0) for n in (1, 2, 3))], status="running"))
    assert "no evaluation to judge by yet: 3 steps" in page.text
    assert page.charts["loss"]["series"][0]["x"] == [1, 2, 3]


def test_nothing_at_all(make_run: Make) -> None:
    """A run that was killed before its first line still has a plan and a text."""
    page = page_of(make_run(status="running"))
    assert page.charts == {}
    assert "a.txt" in page.text


def test_very_many_points(make_run: Make) -> None:
    """Two hundred thousand logged steps make a page no larger than any; its points are measured ones."""
    losses = 3 + np.random.default_rng(0).normal(size=200_000) / 10
    readings = [{"kind": "system", "step": step, "cpu_percent": 50.0} for step in range(1, 200_000, 10)]
    lines = [step_line(step, loss) for step, loss in enumerate(losses.tolist(), 1)]
    page = page_of(make_run(lines=[*lines, *readings], plan={"steps": 200_000}))
    assert len(page.charts["rate"]["series"][0]["x"]) < 1000
    assert page.charts["rate"]["series"][0]["x"][-1] == 200_000


EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\u202e\x1b[31m"


def test_text_of_others_is_text(make_run: Make) -> None:
    """Names, prompts, texts and settings from outside never become markup."""
    sample = {"step": 0, "is_final": False, "prompt": EVIL, "text": EVIL + EVIL, "seed": 1, "finish_reason": "length"}
    source = {"name": EVIL, "samples": 1, "encoding": EVIL, "split_on": EVIL, "reason": EVIL}
    folder = make_run(
        lines=[step_line(1, 4.0), {"kind": "nonfinite", "step": 1, "what": EVIL, "samples": [EVIL], "action": EVIL}],
        samples=[sample],
        asked={"model": EVIL, "sources": [EVIL]},
        plan={"device_name": EVIL, "reasons": {"steps": EVIL}},
        data={"sources": [source]},
    )
    page = page_of(folder)
    html = (folder / "report.html").read_text("utf-8")
    assert "<img" not in html
    assert html.count("<script>") == 1
    assert "<img src=x" in page.text


def test_novelty_is_measured_when_asked(broken_twice: Path, tmp_path: Path) -> None:
    """Before it is, the page says how; then its shares stand there."""
    run = tmp_path / "run"
    shutil.copytree(broken_twice, run)
    assert "--memorization 50" in page_of(run).text
    tunesmith.report(run, memorization=3)
    found = read_run(run).novelty
    assert found is not None
    page = Page((run / "report.html").read_text("utf-8"))
    for shares in (found["written"]["copied_share"], found["held_out"]["copied_share"]):
        assert all(f"{share:.1%}" in page.text for share in shares.values())
    assert "--memorization 50" not in page.text


def test_where_nothing_was_copied(broken_twice: Path, tmp_path: Path) -> None:
    """There is no longest copy then, and the page is written all the same."""
    run = tmp_path / "run"
    shutil.copytree(broken_twice, run)
    tunesmith.report(run, memorization=3)
    file = run / "novelty.json"
    measured = json.loads(file.read_text("utf-8"))
    for texts in ("written", "held_out"):
        measured[texts]["longest"] = None
    file.write_text(json.dumps(measured), encoding="utf-8")
    page = page_of(run)
    assert all(f"{share:.1%}" in page.text for share in measured["written"]["copied_share"].values())


def test_japanese(healthy: Path) -> None:
    """The same figures, and no English sentence left."""
    english = page_of(healthy)
    try:
        japanese = page_of(healthy, "ja")
    finally:
        set_language("en")
    assert [one["said"][:3] for one in english.charts["loss"]["series"]] == [
        one["said"][:3] for one in japanese.charts["loss"]["series"]
    ]
    assert "順調に学習できました" in japanese.text
    for sentence in (
        "The model learned",
        "Validation loss",
        "As a table",
        "end of an epoch",
        "learned from",
        "smoothed",
    ):
        assert sentence in english.text
        assert sentence not in japanese.text


def test_where_it_is_written(healthy: Path, tmp_path: Path) -> None:
    """Into a folder that need not exist; a folder itself is refused; a run that is none likewise."""
    tunesmith.report(healthy, out=tmp_path / "new" / "page.html")
    assert (tmp_path / "new" / "page.html").is_file()
    with pytest.raises(UserError, match="is a folder"):
        tunesmith.report(healthy, out=tmp_path)
    with pytest.raises(UserError, match="is not a run"):
        tunesmith.report(tmp_path)
    with pytest.raises(UserError, match="makes no sense"):
        tunesmith.report(healthy, memorization=-1)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium without a screen, where there is one."""
    playwright = pytest.importorskip("playwright.sync_api")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium here")
    with playwright.sync_playwright() as control:
        chromium = control.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (390, "dark"), (1280, "light"), (1280, "dark")])
def test_in_a_browser(healthy: Path, browser: Any, width: int, scheme: str) -> None:
    """Without a network: no error, nothing asked for, nothing wider than the window, figures at the pointer."""
    tunesmith.report(healthy)
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme, offline=True)
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: said.append(request.url) if request.url.startswith("http") else None)
    page.goto((healthy / "report.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    page.locator("#chart-loss .plot").focus()
    page.keyboard.press("ArrowRight")
    assert "validation: 6.0000" in page.locator("#chart-loss .tip").inner_text()
    page.locator("#chart-rate .plot").hover()
    assert "1.00e-03" in page.locator("#chart-rate .tip").inner_text()
    assert said == []
    context.close()
