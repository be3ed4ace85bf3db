"""The parser's limit of processor time: it grows with the bytes that came, whatever an upload might have had."""

import resource


class CpuLimit:
    """Processor time of this process. At the limit the kernel ends it with SIGXCPU."""

    def __init__(self, seconds: int, bytes_per_second: int) -> None:
        """Set the limit.

        Args:
            seconds: Granted for nothing.
            bytes_per_second: One second more is granted for each so many bytes.
        """
        self._seconds = seconds
        self._bytes_per_second = bytes_per_second
        self._bytes = 0
        self._granted = -1
        self.grant(0)

    def grant(self, count: int) -> None:
        """More time for so many more bytes, as they came or as they were decompressed."""
        self._bytes += count
        granted = self._seconds + self._bytes // self._bytes_per_second
        if granted != self._granted:
            # The hard limit is the machine's: nobody but root could raise it again.
            hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
            soft = granted if hard == resource.RLIM_INFINITY else min(granted, hard)
            resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))
            self._granted = granted
