"""The refusal of a whole upload, beside single bad records."""


class Refusal(Exception):  # noqa: N818  # it becomes an answer, not a failure
    """A refusal of the whole upload. It becomes an answer of the API, so it holds no sample text."""

    def __init__(self, code: str, detail: str, status: int = 422, pointer: str | None = None) -> None:
        """Refuse the upload.

        Args:
            code: A code of service.http.problems.codes.
            detail: What is wrong and what to do.
            status: The HTTP status of the answer.
            pointer: Where it is, such as `line:17`.
        """
        super().__init__(code)
        self.code = code
        self.detail = detail
        self.status = status
        self.pointer = pointer
