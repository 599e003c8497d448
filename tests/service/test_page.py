"""The chat page as a document: whole, strict, and loading nothing."""

import re

import httpx

from burnish.service.page.serve import chat_page


def test_policy_allows_exactly_the_page_itself(base_url: str) -> None:
    answer = httpx.get(base_url)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == policy["form-action"] == "'none'"
    for directive in ("script-src", "style-src"):
        assert re.fullmatch(r"'sha256-[A-Za-z0-9+/]{43}='", policy[directive])
    assert policy["connect-src"] == "'self'"
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_nothing_comes_from_elsewhere_and_nothing_is_interpreted() -> None:
    document = chat_page().document.decode()
    assert "/*STYLE*/" not in document
    assert "/*SCRIPT*/" not in document
    assert not re.search(r"""(src|href)=["'](?!data:)""", document)
    assert set(re.findall(r"https?://[^'\"\s]+", document)) == {"http://www.w3.org/2000/svg"}  # a name, not a place
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", document)
    assert not re.search(r"<[^>]+\s(on\w+|style)=", document)  # the policy would block them
