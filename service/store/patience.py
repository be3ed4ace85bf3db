"""How long an object store may take."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Patience:
    """Time limits and repetitions for reading or writing a bucket. A folder takes as long as its file system does."""

    answer_seconds: float
    """A request that has no answer by then is sent again, or fails."""
    attempts: int
    """How often the S3 client sends one request."""
    repeats: int
    """How often s3fs starts the client's attempts again after they have timed out."""
    object_seconds: float | None = None
    """From an object's opening, after which nothing more of it is asked for; None: as long as it takes."""


OF_A_WORKER = Patience(answer_seconds=20, attempts=3, repeats=5)
"""A job that takes minutes or hours outlasts a store that is away for a minute."""

OF_A_REQUEST = Patience(answer_seconds=8, attempts=1, repeats=2, object_seconds=25)
"""With the wait for a thread (service.http.object_reads) an answer within the 65 s that a proxy is asked for."""
OF_A_CHECK = Patience(answer_seconds=1, attempts=1, repeats=1)
"""A health check has to say soon that the store does not answer."""
