"""The chat page in real headless Chromium."""

import re
import shutil
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from burnish.core.errors import BadRequest
from burnish.core.types import Message, Request
from tests.service.conformance import metrics, wait_until_free
from tests.service.double import ByteCodec, Double, serving

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
QUIET = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)
MARKUP = "<img src=x onerror=\"document.title='owned'\"><b>bold</b> & <script>document.title='owned'</script>"

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine (apt-get install chromium)"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=[*QUIET])
        yield running
        running.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(color_scheme="light")
    opened = context.new_page()
    opened.set_default_timeout(10_000)
    complaints: list[str] = []
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("console", lambda said: complaints.append(said.text) if "Content Security" in said.text else None)
    yield opened
    context.close()
    assert complaints == []


def ask(page: Page, text: str) -> None:
    page.get_by_label("Your message").fill(text)
    page.keyboard.press("Enter")


def test_streams_an_answer_and_keeps_the_conversation(page: Page, double: Double, base_url: str) -> None:
    double.pause_s = 0.005
    page.goto(base_url)
    expect(page.locator("#model")).to_have_text("double · dense")
    ask(page, "Hello fox")
    expect(page.locator("article.assistant")).to_have_attribute("aria-busy", "true")
    expect(page.locator("article.assistant .text")).to_have_text(re.compile("^Once"))
    expect(page.locator("article.assistant")).to_have_attribute("aria-busy", "false")
    expect(page.locator("article.assistant .text")).to_have_text(double.text)
    expect(page.locator(".figures")).to_have_text(re.compile(r"^77 tokens · \d+\.\d tokens/s$"))
    expect(page.get_by_role("button", name="Stop")).to_be_hidden()
    ask(page, "And then?")
    expect(page.locator("article.assistant .figures").nth(1)).to_have_text(re.compile("77 tokens"))
    said = bytes(double.seen[1].prompt[1:]).decode()
    assert said == f"user: Hello fox\nassistant: {double.text}\nuser: And then?\nassistant: "
    page.reload()
    expect(page.locator("article")).to_have_count(4)
    page.get_by_role("button", name="New chat").click()
    expect(page.locator("article")).to_have_count(0)


@pytest.mark.parametrize("way", ["button", "escape", "leave", "new chat"])
def test_stopping_midway_frees_the_request(page: Page, double: Double, base_url: str, way: str) -> None:
    double.pause_s = 0.05
    page.goto(base_url)
    ask(page, "Hello")
    expect(page.locator("article.assistant .text")).to_have_text(re.compile("^Onc"))
    assert len(double.active) == 1
    match way:
        case "button":
            page.get_by_role("button", name="Stop").click()
        case "escape":
            page.keyboard.press("Escape")
        case "leave":
            page.goto("about:blank")
        case "new chat":
            page.get_by_role("button", name="New chat").click()
    wait_until_free(base_url)
    assert not double.active
    assert metrics(base_url)['burnish_requests_finished_total{reason="abort"}'] == 1
    if way in ("button", "escape"):
        expect(page.locator(".figures")).to_have_text(re.compile("stopped$"))
        assert 3 <= double.num_said < 70
    if way == "new chat":
        ask(page, "Again")
        while len(double.seen) < 2:
            time.sleep(0.01)
        assert bytes(double.seen[1].prompt[1:]) == b"user: Again\nassistant: "


def test_markup_in_an_answer_is_shown_not_interpreted(page: Page, double: Double, base_url: str) -> None:
    double.text = MARKUP
    page.goto(base_url)
    ask(page, MARKUP)
    expect(page.locator("article.assistant")).to_have_attribute("aria-busy", "false")
    for role in ("user", "assistant"):
        assert page.locator(f"article.{role} .text").inner_text() == MARKUP
    assert page.locator("article img, article b, article script").count() == 0
    assert page.title() == "double · burnish"


def test_errors_are_told_and_the_question_is_not_lost(page: Page, double: Double, base_url: str) -> None:
    double.fail = lambda request, num_said: "the engine died"
    page.goto(base_url)
    ask(page, "Hello")
    expect(page.get_by_role("alert")).to_have_text("the engine died. Send it again")
    expect(page.get_by_label("Your message")).to_have_value("Hello")
    expect(page.locator("article")).to_have_count(0)

    def fail_late(request: Request, num_said: int) -> str | None:
        return "the engine died again" if num_said == 4 else None

    double.fail = fail_late
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_have_text("the engine died again. Send it again")
    expect(page.locator("article.assistant .text")).to_have_text("Once")


class Continuing(ByteCodec):
    """The tokenizer of a model without chat template."""

    def chat(self, messages: Sequence[Message], **_: Any) -> list[int]:
        raise BadRequest("this model has no chat template", param="messages", code="no_chat_template")


def test_a_model_without_chat_template_continues_the_text(page: Page) -> None:
    double = Double()
    with serving(double, Continuing()) as url:
        page.goto(url)
        for number, text in enumerate(("Once upon", "Long ago")):
            ask(page, text)
            expect(page.locator("article.assistant .text").nth(number)).to_have_text(double.text)
            expect(page.locator("article.assistant .figures").nth(number)).to_have_text(re.compile("^77 tokens"))
        expect(page.get_by_role("alert")).to_be_hidden()
    assert [bytes(request.prompt[1:]) for request in double.seen] == [b"Once upon", b"Long ago"]


def test_asks_for_a_key(page: Page) -> None:
    with serving(Double(), api_keys=("alpha",)) as url:
        page.goto(url)
        key = page.get_by_label("API key", exact=True)
        expect(key).to_be_focused()
        key.fill("wrong")
        page.keyboard.press("Enter")
        expect(key).to_be_visible()
        key.fill("alpha")
        page.keyboard.press("Enter")
        expect(key).to_be_hidden()
        expect(page.locator("#model")).to_have_text("double · dense")
        ask(page, "Hello")
        expect(page.locator("article.assistant .text")).to_have_text(Double().text)


def test_dark_and_light(page: Page, base_url: str) -> None:
    page.goto(base_url)
    ground = "() => getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    page.get_by_role("button", name="Switch between light and dark").click()
    dark = page.evaluate(ground)
    assert light != dark
    page.reload()
    assert page.evaluate(ground) == dark
    page.emulate_media(color_scheme="dark")
    page.evaluate("localStorage.clear()")
    page.reload()
    assert page.evaluate(ground) == dark
