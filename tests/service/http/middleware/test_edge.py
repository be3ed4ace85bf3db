"""Host names, headers, request ids: what holds for every answer."""

import logging

import pytest
from starlette.testclient import TestClient

from service.http.middleware.edge import host_name


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("127.0.0.1:8000", "127.0.0.1"),
        ("LocalHost", "localhost"),
        ("[::1]:8000", "[::1]"),
        ("[::1]", "[::1]"),
        ("", ""),
        ("[::1", ""),
    ],
)
def test_a_host_without_its_port(host: str, name: str) -> None:
    assert host_name(host) == name


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:8000", "localhost.", "", "[::1", "0.0.0.0"])
def test_unknown_hosts_are_refused(client: TestClient, host: str) -> None:
    response = client.get("/v1/info", headers={"Host": host})
    assert (response.status_code, response.json()["code"]) == (400, "host_not_allowed")
    assert client.get("/healthz", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:8000", "[::1]:9", "LOCALHOST"])
def test_known_hosts_are_answered(client: TestClient, host: str) -> None:
    assert client.get("/v1/info", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("path", ["/healthz", "/v1/info", "/nothing", "/v1/probes?limit=0", "/sign-in?token=x", "/"])
def test_every_answer_binds_the_browser(client: TestClient, anonymous_client: TestClient, path: str) -> None:
    for asker in (client, anonymous_client):
        headers = asker.get(path).headers
        assert headers["content-security-policy"] == (
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
            "font-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        )
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store"
        assert headers["x-request-id"]


def test_a_callers_request_id_is_kept(client: TestClient) -> None:
    assert client.get("/healthz", headers={"X-Request-Id": "my-id_1.2"}).headers["x-request-id"] == "my-id_1.2"


@pytest.mark.parametrize("given", ["", "a b", "x" * 65, "a\u00e9", "<script>", "a;b"])
def test_a_strange_request_id_is_replaced(client: TestClient, given: str) -> None:
    answered = client.get("/healthz", headers={"X-Request-Id": given.encode("latin-1")}).headers["x-request-id"]
    assert answered.startswith("req_")


def test_request_ids_differ(client: TestClient) -> None:
    assert len({client.get("/healthz").headers["x-request-id"] for _ in range(5)}) == 5


def test_the_access_log_has_no_secrets(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="service"):
        client.get("/sign-in?token=very-secret")
        client.post("/sign-in?token=very-secret", headers={"Sec-Fetch-Site": "same-origin"})
        client.get("/v1/info")
        client.get("/v1/probes/a%0Ab")
    assert "GET /sign-in 200" in caplog.text
    assert "POST /sign-in 403" in caplog.text
    assert "very-secret" not in caplog.text
    assert client.headers["Authorization"].split()[1] not in caplog.text
    assert r"/v1/probes/a\nb" in caplog.text


def test_no_page_of_another_origin_may_read(client: TestClient) -> None:
    answer = client.options(
        "/v1/probes", headers={"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    )
    assert "access-control-allow-origin" not in answer.headers
