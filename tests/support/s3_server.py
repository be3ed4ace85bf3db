"""A real S3 server as a process of its own."""

import os
import secrets
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test-access-key",
    "AWS_SECRET_ACCESS_KEY": "test-secret-key",
    "AWS_DEFAULT_REGION": "us-east-1",
}


class S3Server:
    """moto's server on a free port of the loopback interface."""

    def __init__(self, log: Path) -> None:
        self._log = log.open("wb")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"],
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        self.endpoint = self._wait_for_address(log)

    def make_bucket(self) -> str:
        """A fresh bucket; its name."""
        name = f"bucket-{secrets.token_hex(6)}"
        request = urllib.request.Request(f"{self.endpoint}/{name}", method="PUT")
        request.add_header("Authorization", "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request")
        urllib.request.urlopen(request, timeout=10).close()
        return name

    def freeze(self) -> None:
        """It takes connections and answers none."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        self._log.close()

    def _wait_for_address(self, log: Path) -> str:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            assert self._process.poll() is None, log.read_text()
            for line in log.read_text().splitlines():
                if "Running on http://" in line:
                    address = "http://" + line.partition("http://")[2].strip()
                    try:
                        urllib.request.urlopen(f"{address}/moto-api/", timeout=5).close()
                        return address
                    except urllib.error.URLError:
                        pass
            time.sleep(0.05)
        raise TimeoutError(log.read_text())
