"""POST /admin/profile: who may, how much, one at a time, for how long."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from burnish.core.errors import BadSettings
from burnish.service.app import create_app
from burnish.service.config import ServiceConfig
from tests.service.double import BYTES, CARD, Double, serving
from tests.service.shapes import check_shape

KEY = {"Authorization": "Bearer alpha"}


@pytest.fixture
def keyed(double: Double) -> Iterator[str]:
    with serving(double, api_keys=("alpha",), max_profile_steps=100, profile_s=0.3, drain_s=2.0) as url:
        yield f"{url}/admin/profile"


def ask(url: str, steps: object = 3) -> httpx.Response:
    return httpx.post(url, json={"steps": steps}, headers=KEY)


def check_refused(answer: Any, status: int, code: str) -> Any:
    check_shape("ErrorResponse", answer.json())
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    return answer.json()["error"]["message"]


def test_the_answer_is_a_trace_of_so_many_steps(keyed: str) -> None:
    answer = ask(keyed)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    trace = answer.json()
    assert [event["name"] for event in trace["traceEvents"] if event.get("cat") == "step"] == ["prefill step"] * 3
    assert trace["otherData"]["model"] == "double"
    assert trace["otherData"]["summary"]["num_steps"] == 3
    assert httpx.post(keyed, json={}, headers=KEY).json()["otherData"]["summary"]["num_steps"] == 64


def test_without_the_key_nothing_is_recorded(keyed: str, double: Double) -> None:
    double.hold = True
    assert httpx.post(keyed, json={"steps": 3}).status_code == 401
    assert double.num_recordings == 0


def test_a_server_without_keys_refuses_everybody(base_url: str) -> None:
    message = check_refused(httpx.post(f"{base_url}/admin/profile", json={"steps": 3}), 403, "forbidden")
    assert "--api-key" in message


def test_what_cannot_be_recorded_says_so() -> None:
    app = create_app(Double(), BYTES, CARD, ServiceConfig(api_keys=("alpha",)))
    answer = TestClient(app).post("/admin/profile", json={"steps": 3}, headers=KEY)
    assert "cannot be profiled" in check_refused(answer, 404, "not_found")


@pytest.mark.parametrize(("steps", "told"), [(0, "steps"), (101, "Use 1 to 100"), (-1, "steps"), ("many", "steps")])
def test_steps_have_bounds(keyed: str, steps: object, told: str) -> None:
    answer = ask(keyed, steps)
    assert answer.status_code == 400
    assert told in str(answer.json()["error"])


def test_an_unknown_field_is_refused_with_the_nearest(keyed: str) -> None:
    answer = httpx.post(keyed, json={"step": 3}, headers=KEY)
    assert "'steps'" in check_refused(answer, 400, "unknown_parameter")


def test_one_at_a_time(keyed: str, double: Double) -> None:
    double.hold = True
    first: list[httpx.Response] = []
    thread = threading.Thread(target=lambda: first.append(ask(keyed)))
    thread.start()
    eventually(lambda: double.num_recordings == 1)
    check_refused(ask(keyed), 409, "conflict")
    double.hold = False
    thread.join()
    assert first[0].status_code == 200
    assert ask(keyed).status_code == 200


def test_a_server_with_nothing_to_do_says_so_in_time(keyed: str, double: Double) -> None:
    double.busy = False
    answer = ask(keyed)
    assert "nothing to do for 0.3 s. Send requests" in check_refused(answer, 503, "nothing_recorded")
    assert answer.headers["retry-after"]


def test_a_client_that_leaves_ends_its_recording(keyed: str, double: Double) -> None:
    double.hold = True
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(keyed, json={"steps": 3}, headers=KEY, timeout=0.3)
    eventually(lambda: double.num_recordings == 0)


def eventually(condition: Any) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("wrong", [{"max_profile_steps": 0}, {"profile_s": 0.0}, {"profile_s": float("inf")}])
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadSettings, match=next(iter(wrong))):
        ServiceConfig(**wrong)
