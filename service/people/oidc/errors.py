"""The reasons why a sign-in by an issuer failed."""

from typing import Literal

Reason = Literal["unreachable", "misconfigured", "code_refused", "token_invalid"]


class IssuerError(Exception):
    """The issuer could not be asked, or did not confirm the sign-in.

    Args:
        reason: What went wrong, for the person.
        detail: For the log; holds neither codes nor tokens nor the secret.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
