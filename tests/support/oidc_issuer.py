"""An OpenID Connect issuer as a process, and one that says whatever a test wants it to."""

import base64
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from joserfc import jwt
from joserfc.jwk import KeySet, RSAKey

from tests.support.pages import Page
from tests.support.ports import free_port

CLIENT_ID = "finetooth"
CLIENT_SECRET = "a secret of the issuer's client"


@contextlib.contextmanager
def real_issuer(log: Path) -> Iterator[str]:
    """Address of an `oidc-provider-mock` of its own process, for the time of the block."""
    port = free_port()
    command = [sys.executable, "-m", "oidc_provider_mock", "--port", str(port), "--require-nonce", "true"]
    with (
        log.open("wb") as output,
        subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, "NO_COLOR": "1"}) as process,
    ):
        try:
            _wait_until_it_answers(f"http://127.0.0.1:{port}", process)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.send_signal(signal.SIGTERM)


def _wait_until_it_answers(address: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 60
    while True:
        try:
            httpx.get(f"{address}/.well-known/openid-configuration").raise_for_status()
        except httpx.HTTPError:
            assert process.poll() is None, "the issuer has ended"
            assert time.monotonic() < end, "the issuer does not answer"
            time.sleep(0.1)
        else:
            return


def consent(address: str, subject: str, claims: Mapping[str, Any], *, issuer: str) -> str:
    """Sign in at the issuer as a person does, and return where it sends the browser back to."""
    httpx.put(f"{issuer}/users/{subject}", json=dict(claims)).raise_for_status()
    shown = httpx.get(address)
    assert shown.status_code == 200, shown.text
    assert Page(shown.text).all("form")
    answer = httpx.post(address, data={"sub": subject})
    assert answer.status_code == 302, answer.text
    return answer.headers["location"]


class ScriptedIssuer:
    """An issuer that checks the client and its PKCE proof as RFC 6749 and 7636 ask, and vouches for what it is told to.

    `claims` are those of the next ID token, over right ones; `key` signs it.
    """

    def __init__(self) -> None:
        self.key = RSAKey.generate_key(2048, {"kid": "first", "use": "sig", "alg": "RS256"})
        self.published = [self.key]
        self.claims: dict[str, Any] = {}
        self.header: dict[str, Any] = {"alg": "RS256"}
        self.metadata: dict[str, Any] = {}
        self.user_info: dict[str, Any] | None = None
        self.asked: dict[str, str] = {}
        self.refused: list[str] = []
        self.address = ""

    def code_for(self, address: str) -> tuple[str, str]:
        """Let somebody sign in who was sent here; code and state of the way back."""
        self.asked = {name: values[0] for name, values in parse_qs(urlsplit(address).query).items()}
        return "the-code", self.asked["state"]

    def token(self) -> dict[str, Any]:
        """What the token endpoint answers."""
        now = int(time.time())
        claims = {
            "iss": self.address,
            "sub": "s1",
            "aud": CLIENT_ID,
            "iat": now,
            "exp": now + 60,
            "nonce": self.asked.get("nonce"),
            **self.claims,
        }
        claims = {name: value for name, value in claims.items() if value is not None}
        if self.header["alg"] == "none":
            parts = [json.dumps(part).encode() for part in (self.header, claims)]
            id_token = ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts) + "."
        else:
            header = {"kid": self.key.kid, **self.header}
            id_token = jwt.encode(header, claims, self.key, algorithms=[self.header["alg"]])
        return {"access_token": "at", "token_type": "Bearer", "id_token": id_token}

    def exchange(self, authorization: str, form: Mapping[str, str]) -> tuple[int, dict[str, Any]]:
        """Answer the token endpoint."""
        basic = base64.b64encode(f"{CLIENT_ID}:{CLIENT_SECRET}".encode()).decode()
        if authorization != f"Basic {basic}":
            self.refused.append("client")
            return 401, {"error": "invalid_client"}
        if create_s256_code_challenge(form["code_verifier"]) != self.asked["code_challenge"]:
            self.refused.append("verifier")
            return 400, {"error": "invalid_grant"}
        if (form["code"], form["redirect_uri"]) != ("the-code", self.asked["redirect_uri"]):
            self.refused.append("code")
            return 400, {"error": "invalid_grant"}
        return 200, self.token()

    def document(self, path: str) -> dict[str, Any]:
        """Answer a GET."""
        if path == "/jwks":
            return dict(KeySet(self.published).as_dict(private=False))
        if path == "/userinfo":
            return self.user_info or {}
        return {
            "issuer": self.address,
            "authorization_endpoint": f"{self.address}/authorize",
            "token_endpoint": f"{self.address}/token",
            "jwks_uri": f"{self.address}/jwks",
            "id_token_signing_alg_values_supported": ["RS256", "HS256", "none"],
            **({"userinfo_endpoint": f"{self.address}/userinfo"} if self.user_info is not None else {}),
            **self.metadata,
        }


@contextlib.contextmanager
def scripted_issuer() -> Iterator[ScriptedIssuer]:
    """It, on a port of its own, for the time of the block."""
    issuer = ScriptedIssuer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(200, issuer.document(self.path))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            form = {name: values[0] for name, values in parse_qs(body).items()}
            self._answer(*issuer.exchange(self.headers.get("Authorization", ""), form))

        def _answer(self, status: int, document: Mapping[str, Any]) -> None:
            content = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *arguments: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    issuer.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield issuer
    finally:
        server.shutdown()
        server.server_close()


def link_of(page: Page) -> str:
    """Where the sign-in page leads to the issuer."""
    (found,) = [str(a["href"]) for a, _ in page.all("a") if re.search(r"/sign-in/oidc$", str(a.get("href")))]
    return found
