"""What binds an issuer's answer to the browser that asked: all of it follows from one random secret in its cookie.

So nothing is stored of a sign-in that is under way, and none can be ended in another browser. What goes through the
browser's address (the state and the nonce) tells nothing of the secret, nor of the code verifier, which only the issuer
gets to know.
"""

import base64
import hashlib
import hmac
import secrets
from dataclasses import dataclass


@dataclass(frozen=True)
class Handshake:
    """The secrets of one sign-in that is under way, all derived from the browser's cookie."""

    secret: str

    @property
    def state(self) -> str:
        """Comes back with the code."""
        return self._derived("state")

    @property
    def nonce(self) -> str:
        """Comes back in the ID token."""
        return self._derived("nonce")

    @property
    def code_verifier(self) -> str:
        """Proves to the issuer that who brings the code is who asked for it (RFC 7636)."""
        return self._derived("code_verifier")

    def answers(self, state: str) -> bool:
        """Whether a state that came back is this one's."""
        return hmac.compare_digest(self.state.encode(), state.encode("utf-8", "surrogatepass"))

    def _derived(self, what: str) -> str:
        digest = hmac.digest(self.secret.encode("utf-8", "surrogatepass"), what.encode(), hashlib.sha256)
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def begin() -> Handshake:
    """A sign-in that nobody has begun before."""
    return Handshake(secrets.token_urlsafe(32))
