"""Keys on every path, body limits, error shapes of what never reaches an endpoint."""

import json
import socket
from collections.abc import Iterator

import httpx
import pytest

from burnish.core.errors import BadSettings
from burnish.service.app import ROUTES
from burnish.service.config import ServiceConfig
from tests.service.double import Double, serving
from tests.service.shapes import check_shape

HTML = {"Accept": "text/html,application/xhtml+xml"}


@pytest.fixture(scope="module")
def guarded() -> Iterator[str]:
    with serving(Double(), api_keys=("alpha", "schlüssel"), max_body_bytes=1000) as url:
        yield url


def paths() -> list[tuple[str, str]]:
    found = [(route.method, route.path.replace("{model:path}", "double")) for route in ROUTES]
    return [*found, ("GET", "/openapi.json"), ("GET", "/nowhere"), ("HEAD", "/"), ("OPTIONS", "/v1/models")]


@pytest.mark.parametrize(("method", "path"), paths())
def test_every_path_but_health_asks_for_a_key(guarded: str, method: str, path: str) -> None:
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic alpha"}, {"X-Api-Key": "alpha"}):
        answer = httpx.request(method, guarded + path, headers=headers)
        if path.startswith("/health/"):
            assert answer.status_code == 200
        else:
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"
            if method != "HEAD":
                check_shape("ErrorResponse", answer.json())
    for key in ("alpha", "schlüssel"):
        known = httpx.request(method, guarded + path, headers={b"Authorization": f"bearer {key}".encode()})
        assert known.status_code != 401


def test_no_path_is_missing_from_the_list() -> None:
    with serving(Double()) as url:
        described = httpx.get(f"{url}/openapi.json").json()["paths"]
    assert {path.replace("{model}", "double") for path in described} == {path for _, path in paths()[: len(ROUTES)]}


def test_a_browser_without_key_gets_the_page_that_asks_for_one(guarded: str) -> None:
    answer = httpx.get(guarded, headers=HTML)
    assert (answer.status_code, answer.headers["content-type"]) == (401, "text/html; charset=utf-8")
    assert "This server asks for an API key" in answer.text
    assert httpx.get(f"{guarded}/metrics", headers=HTML).headers["content-type"] == "application/json"


def test_body_limit_announced_and_in_chunks(guarded: str) -> None:
    headers = {"Authorization": "Bearer alpha", "Content-Type": "application/json"}
    small, large = b'{"prompt": "a"}', b'{"prompt": "' + b"a" * 1000 + b'"}'
    for content, status in ((small, 200), (large, 413), (iter([small]), 200), (iter([large[:600], large[600:]]), 413)):
        answer = httpx.post(f"{guarded}/tokenize", content=content, headers=headers)
        assert answer.status_code == status
    check_shape("ErrorResponse", answer.json())
    assert answer.json()["error"]["code"] == "payload_too_large"


@pytest.mark.parametrize(
    ("method", "path", "content", "status", "code"),
    [
        ("GET", "/nowhere", b"", 404, "not_found"),
        ("GET", "/v1/models/", b"", 404, "model_not_found"),
        ("GET", "/docs", b"", 404, "not_found"),
        ("PUT", "/v1/models", b"", 405, "method_not_allowed"),
        ("POST", "/v1/completions", b'{"model": ', 400, "invalid_json"),
        ("POST", "/v1/completions", b"[" * 100_000, 400, "invalid_body"),
        ("POST", "/v1/completions", b"\xc3\x28", 400, "invalid_body"),
        ("POST", "/v1/completions", b"[1]", 400, "invalid_body"),
        ("POST", "/v1/completions", b"", 400, "invalid_body"),
        ("POST", "/v1/completions", b"{}", 400, "invalid_value"),
        ("POST", "/v1/completions", b'{"model": "double", "prompt": "\\ud800"}', 400, "invalid_value"),
        ("POST", "/v1/completions", b'{"model": "double", "\\ud800": 1}', 400, "unknown_parameter"),
        ("POST", "/v1/completions", b'{"model": "double", "prompt": "a", "temperature": NaN}', 400, "invalid_value"),
        ("POST", "/v1/completions", b'{"model": "double", "prompt": "a", "n": true}', 400, "invalid_value"),
        ("POST", "/v1/completions", b'{"model": "double", "prompt": "a", "n": "2"}', 400, "invalid_value"),
        ("POST", "/v1/completions", b'{"model": "\\ud800", "prompt": "a"}', 404, "model_not_found"),
    ],
)
def test_errors_have_the_openai_shape(
    base_url: str, method: str, path: str, content: bytes, status: int, code: str
) -> None:
    answer = httpx.request(method, base_url + path, content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == status, answer.text
    check_shape("ErrorResponse", answer.json())
    assert answer.json()["error"]["code"] == code


def test_bodies_of_another_type_are_refused(base_url: str) -> None:
    content = b'{"prompt": "a"}'
    for headers in ({"Content-Type": "text/plain"}, {}):  # what a foreign web page may send without asking
        assert httpx.post(f"{base_url}/tokenize", content=content, headers=headers).status_code == 400


@pytest.mark.parametrize(
    "sent", [b"NONSENSE\r\n\r\n", b"GET /\r\n\r\n", b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n"]
)
def test_what_is_no_http_is_refused_in_the_same_shape(guarded: str, sent: bytes) -> None:
    url = httpx.URL(guarded)
    with socket.create_connection((url.host, url.port or 80), timeout=5) as connection:
        connection.sendall(sent)
        head, _, body = b"".join(iter(lambda: connection.recv(4096), b"")).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    check_shape("ErrorResponse", json.loads(body))
    assert json.loads(body)["error"]["code"] == "invalid_http"


@pytest.mark.parametrize("wrong", [{"max_n": 0}, {"drain_s": -1}, {"request_timeout_s": 0}, {"api_keys": (" ",)}])
def test_settings_that_make_no_sense(wrong: dict[str, object]) -> None:
    with pytest.raises(BadSettings):
        ServiceConfig(**wrong)  # type: ignore[arg-type]


def test_keys_do_not_show_in_logs() -> None:
    assert "alpha" not in repr(ServiceConfig(api_keys=("alpha",)))
