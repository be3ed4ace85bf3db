"""Middleware at the edge: which host names are answered, and headers that restrict browsers."""

from collections.abc import Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.http.problems.problem import Problem, problem_response
from service.http.response_start import on_response_start
from service.http.sub_path import own_path

HEALTH_PATHS = frozenset({"/healthz", "/readyz", "/metrics"})
"""Paths answered under any host name, since load balancers and Prometheus ask by address. A page that points its own
name here (DNS rebinding) has neither a key nor a cookie for the last one."""

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "font-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""Pages load everything from here and run nothing that is written in them, so that text of samples cannot."""

SECURITY_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Answers hold samples and keys: no cache keeps them unless a route says otherwise.
    "Cache-Control": "no-store",
}


class SecurityHeaders:
    """ASGI middleware that adds SECURITY_HEADERS unless the response has set its own."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap the application."""
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request or other event of ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        def add_headers(message: Message) -> None:
            headers = MutableHeaders(scope=message)
            for name, value in SECURITY_HEADERS.items():
                headers.setdefault(name, value)

        await self.app(scope, receive, on_response_start(send, add_headers))


class KnownHosts:
    """ASGI middleware that refuses requests for unknown host names, and addresses with a NUL.

    A page elsewhere can point a name of its own at this machine (DNS rebinding); its requests then carry that name.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str]) -> None:
        """Wrap the application.

        Args:
            app: The application.
            hosts: The host names that are answered, without ports.
        """
        self.app = app
        self.hosts = frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request or other event of ASGI."""
        problem = None if scope["type"] != "http" else self._problem(scope)
        if problem is None:
            await self.app(scope, receive, send)
        else:
            await problem_response(Request(scope, receive), problem)(scope, receive, send)

    def _problem(self, scope: Scope) -> Problem | None:
        if "\0" in scope["path"] or b"%00" in scope["query_string"]:
            return Problem(400, "nul_in_address", "The address holds a NUL character (%00).")
        if own_path(scope) in HEALTH_PATHS:
            return None
        host = host_name(Headers(scope=scope).get("host", ""))
        if host in self.hosts:
            return None
        return Problem(
            400,
            "host_not_allowed",
            "The Host header names a host that this service does not answer for. "
            'Add it to FINETOOTH_ALLOWED_HOSTS, a JSON list such as ["audits.example.org"].',
        )


def host_name(host: str) -> str:
    """Return a Host header without its port, in lower case; IPv6 addresses keep their brackets."""
    if host.startswith("["):
        return host[: host.find("]") + 1].lower()
    return host.partition(":")[0].lower()
