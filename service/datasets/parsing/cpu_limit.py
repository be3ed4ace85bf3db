"""The parser's limit of processor time, which grows with the bytes that have come."""

import resource


class CpuLimit:
    """The processor time of this process. At the limit the kernel ends it with SIGXCPU."""

    def __init__(self, seconds: int, bytes_per_second: int) -> None:
        """Set the limit.

        Args:
            seconds: The time that is granted at once.
            bytes_per_second: One more second is granted for this many bytes.
        """
        self._seconds = seconds
        self._bytes_per_second = bytes_per_second
        self._bytes = 0
        self._granted = -1
        self.grant(0)

    def grant(self, count: int) -> None:
        """Grant more time for `count` bytes that came or were decompressed."""
        self._bytes += count
        granted = self._seconds + self._bytes // self._bytes_per_second
        if granted != self._granted:
            # The hard limit is the machine's: only root could raise it again.
            hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
            soft = granted if hard == resource.RLIM_INFINITY else min(granted, hard)
            resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))
            self._granted = granted
