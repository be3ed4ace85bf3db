"""Why a whole upload is refused, beside single bad records."""


class Refusal(Exception):  # noqa: N818  # it becomes an answer, not a failure
    """`code` is stable; `detail` tells the user what to do and holds no sample text; `pointer` is as in a problem."""

    def __init__(self, code: str, detail: str, status: int = 422, pointer: str | None = None) -> None:
        super().__init__(code)
        self.code = code
        self.detail = detail
        self.status = status
        self.pointer = pointer
