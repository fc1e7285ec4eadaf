"""The page in a real browser: typing, streaming, comparing, looking, keeping."""

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import SimpleNamespace
from typing import Any

import openai
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium here: apt-get install chromium")

OpenPage = Callable[..., AbstractContextManager[Page]]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One for all tests."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Browser, server: SimpleNamespace) -> OpenPage:
    """A function that opens the page for a new reader, and finds no error and no other address in the end."""

    @contextmanager
    def opened(url: str = server.url, *, fails: int = 0, **options: Any) -> Iterator[Page]:
        context = browser.new_context(**{"locale": "en-US", "viewport": {"width": 1280, "height": 800}, **options})
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        errors: list[str] = []
        addresses: list[str] = []
        page = context.new_page()
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: addresses.append(request.url))
        page.goto(url)
        if not fails:
            expect(page.locator("body[data-ready]")).to_be_attached()
        yield page
        root = re.match(r"http://[^/]+/", f"{url}/")
        assert root is not None
        assert len(errors) == fails, errors
        assert [address for address in addresses if not address.startswith((root[0], "blob:"))] == []
        context.close()

    return opened


def choose(page: Page, *models: str) -> None:
    """Tick these models and no others."""
    for box in page.locator("#models .chip").all():
        if box.locator("input").is_checked() != (box.inner_text().strip() in models):
            box.click()


def write(page: Page, prompt: str = "", *, models: tuple[str, ...] = ("small",), **values: object) -> None:
    """Fill the form, press the keys, and wait for the end."""
    choose(page, *models)
    page.fill("#prompt", prompt)
    for name, value in {"seed": 11, "max_tokens": 12, "n": 1, **values}.items():
        page.fill(f"#{name}", str(value))
    page.press("#prompt", "Control+Enter")
    expect(page.locator(".card.writing")).to_have_count(0)


def test_typing_streaming_comparing(open_page: OpenPage, server: SimpleNamespace) -> None:
    """Two models, two texts each, side by side; each text is the one that its seed writes through the API."""
    with open_page() as page, openai.OpenAI(base_url=server.api, api_key="none") as client:
        write(page, "the lamp", models=("tiny", "small"), n=2)
        expect(page.locator(".row")).to_have_count(2)
        for place, (model, seed) in enumerate([("tiny", 11), ("small", 11), ("tiny", 12), ("small", 12)]):
            card = page.locator(".card").nth(place)
            expect(card.locator(".name-of-model")).to_have_text(model)
            expect(card.locator(".seed-of-text")).to_have_text(f"seed {seed}")
            answer = client.completions.create(
                model=model, prompt="the lamp", seed=seed, max_tokens=12, temperature=0.8, top_p=0.95
            )
            assert page.evaluate("place => document.querySelectorAll('.card')[place].card.whole", place) == (
                "the lamp" + answer.choices[0].text
            )
        left, right = (page.locator(".card").nth(place).bounding_box() for place in (0, 1))
        assert left is not None
        assert right is not None
        assert left["y"] == right["y"]
        assert left["x"] + left["width"] <= right["x"]


def test_text_comes_as_it_is_written_and_can_be_stopped(open_page: OpenPage) -> None:
    """A long text grows, Escape ends it, and what was written stays."""
    with open_page() as page:
        choose(page, "tiny")
        page.fill("#max_tokens", "4000")
        page.fill("#temperature", "2")
        page.fill("#top_p", "1")
        page.evaluate("""() => {
            const send = window.fetch;
            window.fetch = (path, options) => send(path, options?.body ? {
                ...options, body: JSON.stringify({...JSON.parse(options.body), min_tokens: 4000})} : options);
        }""")
        page.press("#prompt", "Control+Enter")
        written = page.locator(".card .written").first
        expect(written).to_contain_text(re.compile(r".{20}", re.DOTALL))
        before = len(written.inner_text())
        expect(written).to_contain_text(re.compile(rf".{{{before + 20}}}", re.DOTALL))
        expect(page.locator("#stop-writing")).to_be_visible()
        page.keyboard.press("Escape")
        expect(page.locator(".card-foot").first).to_contain_text("stopped")
        expect(page.locator("#write")).to_be_visible()
        assert len(written.inner_text()) > before


def test_looking_at_a_token_and_taking_another(open_page: OpenPage, server: SimpleNamespace) -> None:
    """Its probability and its likeliest rivals are the API's; a rival writes on from there."""
    with open_page() as page, openai.OpenAI(base_url=server.api, api_key="none") as client:
        write(page, "the lamp", models=("tiny",))
        answer = client.completions.create(
            model="tiny", prompt="the lamp", seed=11, max_tokens=12, temperature=0.8, top_p=0.95, logprobs=5
        )
        logprobs: Any = answer.choices[0].logprobs
        place = 3
        page.locator(f".token[data-place='{place}']").hover()
        popover = page.locator("#popover")
        expect(popover).to_be_visible()
        taken = popover.locator(".choice.taken")
        expect(taken.locator(".token-name")).to_have_text(logprobs.tokens[place].replace(" ", "·").replace("\n", "↵"))
        share = float(taken.locator(".share").inner_text().rstrip("%")) / 100
        assert share == pytest.approx(2.718281828 ** logprobs.token_logprobs[place], rel=0.1)
        names = set(logprobs.top_logprobs[place]) | {logprobs.tokens[place]}
        expect(popover.locator(".choice")).to_have_count(len(names))
        rival = popover.locator("button.choice").first
        name = rival.locator(".token-name").inner_text().replace("·", " ").replace("↵", "\n")
        rival.click()
        expect(page.locator(".run")).to_have_count(2)
        before = answer.choices[0].text[: logprobs.text_offset[place]]
        expect(page.locator("#prompt")).to_have_value("the lamp" + before + name)


def test_everything_works_by_keys(open_page: OpenPage) -> None:
    """To the prompt, to a text, through its tokens, to another token; views, keeping, help."""
    with open_page() as page:
        write(page, "the lamp", models=("tiny",), n=2)
        page.keyboard.press("Escape")
        page.keyboard.press("j")
        page.keyboard.press("j")
        assert page.evaluate("() => document.activeElement === document.querySelectorAll('.card .text')[1]")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        expect(page.locator(".token.held")).to_have_attribute("data-place", "1")
        page.keyboard.press("p")
        expect(page.locator("#runs.probabilities")).to_be_attached()
        page.keyboard.press("s")
        expect(page.locator("#kept-count")).to_have_text("1")
        page.keyboard.press("c")
        whole = page.evaluate("() => document.querySelectorAll('.card')[1].card.whole")
        expect(page.locator("#toast")).to_have_text("Copied")
        assert page.evaluate("() => navigator.clipboard.readText()") == whole
        page.keyboard.press("ArrowDown")
        expect(page.locator(".choice.picked")).to_have_count(1)
        page.keyboard.press("Enter")
        expect(page.locator(".run")).to_have_count(2)
        expect(page.locator(".card.writing")).to_have_count(0)
        page.keyboard.press("?")
        expect(page.locator("#help")).to_be_visible()
        page.keyboard.press("Escape")
        expect(page.locator("#help")).to_be_hidden()
        page.keyboard.press("/")
        expect(page.locator("#prompt")).to_be_focused()


def test_what_a_model_writes_is_text(open_page: OpenPage, recited: str, learned: list[str]) -> None:
    """Nothing comes of it but text; what is invisible is shown, and what is copied is marked with its source."""
    with open_page() as page:
        write(page, models=("reciter",), max_tokens=1000)
        shown = page.locator(".card .written").inner_text()
        assert '<script>document.title = "taken"</script><img src=x onerror="document.title = 1">' in shown
        assert "␛[31m␇ 灯台の灯、静かな海 🎏 [U+202E]end" in shown
        assert not set("\x1b\x07\u202e") & set(shown)
        assert page.locator("#runs script, #runs img").count() == 0
        assert page.title() == "tunesmith"
        assert page.evaluate("() => document.querySelector('.card').card.whole") == recited
        expect(page.locator(".card-foot")).to_contain_text("from log.txt, sample 2")
        marked = "".join(page.locator(".card .copied").all_inner_texts())
        assert marked.strip() == learned[1]
        page.locator(".card .copied").first.hover()
        expect(page.locator("#popover .from")).to_contain_text("tokens in a row from log.txt, sample 2")


def test_kept_texts_stay_until_they_are_removed(open_page: OpenPage, recited: str) -> None:
    """In this browser, over a new visit."""
    with open_page() as page:
        write(page, models=("reciter",), max_tokens=1000)
        page.locator(".card .tool").first.click()
        page.reload()
        page.click("#open-kept")
        expect(page.locator(".kept-text .text")).to_contain_text('<script>document.title = "taken"</script>')
        with page.expect_download() as saving:
            page.click("#kept-save")
        assert saving.value.suggested_filename == "tunesmith-texts.jsonl"
        page.click("#kept-copy")
        expect(page.locator("#toast")).to_have_text("Copied")
        assert page.evaluate("() => navigator.clipboard.readText()") == recited
        page.locator(".kept-text .tool").last.click()
        expect(page.locator("#kept-empty")).to_be_visible()
        page.reload()
        expect(page.locator("#kept-count")).to_be_hidden()


def test_both_languages(open_page: OpenPage) -> None:
    """The browser's at first, the reader's choice from then on; no text is missing in either."""
    with open_page(locale="ja-JP") as page:
        expect(page.locator("html")).to_have_attribute("lang", "ja")
        expect(page.locator("#write")).to_contain_text("書く")
        write(page, "灯台", models=("small",))
        expect(page.locator(".card-foot")).to_contain_text("トークン")
        page.click("[data-language=en]")
        expect(page.locator("#write")).to_contain_text("Write")
        expect(page.locator(".card-foot")).to_contain_text("tokens")
        page.reload()
        expect(page.locator("html")).to_have_attribute("lang", "en")
        texts = page.evaluate("async () => (await import('/page/locales.js')).LANGUAGES")
        assert set(texts) == {"en", "ja"}
        assert texts["en"].keys() == texts["ja"].keys()
        for key, english in texts["en"].items():
            assert sorted(re.findall(r"{\w+}", english)) == sorted(re.findall(r"{\w+}", texts["ja"][key])), key
        asked = page.evaluate("""() => [...document.querySelectorAll('[data-text], [data-placeholder], [data-label]')]
            .flatMap(element => Object.values(element.dataset).filter(value => /^[a-z_]+$/.test(value)))""")
        assert set(asked) <= texts["en"].keys() | {"yes"}


def test_light_and_dark(open_page: OpenPage) -> None:
    """The system's at first, the reader's choice from then on."""
    paper = "() => getComputedStyle(document.body).backgroundColor"
    with open_page(color_scheme="light") as page:
        light = page.evaluate(paper)
        page.emulate_media(color_scheme="dark")
        assert page.evaluate(paper) != light
        page.click("#theme-switch")
        assert page.evaluate(paper) == light
        page.reload()
        assert page.evaluate(paper) == light


def test_nothing_sticks_out(open_page: OpenPage) -> None:
    """At no width and in no language has a reader to scroll sideways, whatever is written."""
    with open_page() as page:
        write(page, "W" * 150, models=("tiny", "reciter"), n=2, max_tokens=30, seed=2**31 - 2)
        for language in ("ja", "en"):
            page.click(f"[data-language={language}]")
            for width in (320, 390, 768, 861, 1280):
                page.set_viewport_size({"width": width, "height": 800})
                assert page.evaluate("() => document.documentElement.scrollWidth") <= width


def test_the_token_is_asked_for_once(open_page: OpenPage, guarded: SimpleNamespace, token: str) -> None:
    """An address without it opens a question; the printed one carries it, and it is taken out of sight."""
    root = guarded.api.removesuffix("/v1")
    with open_page(root, fails=1) as page:  # the browser itself notes the 401
        page.fill("#token", token)
        page.keyboard.press("Enter")
        expect(page.locator("#models .chip")).to_have_count(2)
    with open_page(guarded.url) as page:
        expect(page.locator("#models .chip")).to_have_count(2)
        assert token not in page.url


def test_errors_are_said(open_page: OpenPage) -> None:
    """A prompt that is too long, in the reader's language."""
    with open_page(locale="ja-JP", fails=1) as page:
        page.locator("body[data-ready]").wait_for(state="attached")
        write(page, "the lamp " * 60, models=("small",))
        expect(page.locator(".card.failed")).to_contain_text("モデルの一度に読める長さを超えています")
