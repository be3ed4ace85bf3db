"""The secrets that bind an issuer's answer to the browser that asked, all derived from one random secret in its cookie.

So nothing is stored for a sign-in that is under way, and none can be completed in another browser. What goes through
the browser's address (the state and the nonce) reveals neither the secret nor the code verifier, which only the issuer
gets.
"""

import base64
import hashlib
import hmac
import secrets
from dataclasses import dataclass


@dataclass(frozen=True)
class Handshake:
    """The secrets of one sign-in, all derived from the browser's cookie."""

    secret: str

    @property
    def state(self) -> str:
        """The state, which comes back with the code."""
        return self._derived("state")

    @property
    def nonce(self) -> str:
        """The nonce, which comes back in the ID token."""
        return self._derived("nonce")

    @property
    def code_verifier(self) -> str:
        """The proof that the one who brings the code is the one who asked for it (RFC 7636)."""
        return self._derived("code_verifier")

    def answers(self, state: str) -> bool:
        """Return whether a state that came back is the one of this sign-in."""
        return hmac.compare_digest(self.state.encode(), state.encode("utf-8", "surrogatepass"))

    def _derived(self, what: str) -> str:
        digest = hmac.digest(self.secret.encode("utf-8", "surrogatepass"), what.encode(), hashlib.sha256)
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def begin() -> Handshake:
    """Begin a new sign-in."""
    return Handshake(secrets.token_urlsafe(32))
