"""Exports: files of an audit's results, made by the service and downloaded."""

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile

import httpx

from service.client.connection import BLOCK_BYTES, UPLOAD_TIMEOUT, Connection, refusal, without_none
from service.client.errors import ApiError, ExportError, Json, UnreachableError
from service.client.paths import resource

DOWNLOAD_RETRIES = 5
"""How often in a row a download may break off without having received a byte."""


class Exports(Connection):
    """The methods of `Client` for exports."""

    def export(
        self,
        audit_id: str,
        kind: str,
        format: str = "jsonl",
        *,
        to: Path,
        filter: str | None = None,
        max_q: float | None = None,
        on_progress: Callable[[Json], None] = lambda export: None,
        on_download: Callable[[int, int], None] = lambda received, total: None,
        poll_seconds: float = 1.0,
        patience_seconds: float = 60.0,
    ) -> Path:
        """Create an export, wait for it, and download it to a file.

        Args:
            audit_id: An audit that has succeeded.
            kind: `cleaned`, `flagged` or `scores`.
            format: `jsonl`, `csv` or `parquet`.
            to: The file, which appears complete or not at all. One that is there is replaced.
            filter: `flagged`, `confirmed` or `not_rejected`: which samples count as poison.
            max_q: Only samples with a q-value of at most this count as poison.
            on_progress: Called with the export when it has changed.
            on_download: Called with the bytes received and the bytes in all.
            poll_seconds: As for `wait`.
            patience_seconds: As for `wait`.

        Returns:
            `to`.

        Raises:
            ExportError: The export failed or was cancelled.
            OSError: The file cannot be written.
            ApiError: The service refuses.
            UnreachableError: It does not answer, or the download keeps breaking off.
        """
        body = {"kind": kind, "format": format, **without_none(filter=filter, max_q=max_q)}
        export_id = self._create(resource("audits", audit_id, "exports"), lambda: {"json": body})["id"]
        try:
            export = self._wait_for(
                resource("exports", export_id),
                on_progress=on_progress,
                poll_seconds=poll_seconds,
                patience_seconds=patience_seconds,
            )
            if export["status"] != "succeeded":
                raise ExportError(export)
            self._download(export, to, on_download)
        except BaseException:
            # Nothing waits for it any more.
            with suppress(ApiError, UnreachableError):
                self._send("POST", resource("exports", export_id, "cancel"))
            raise
        return to

    def exports(self) -> Iterator[Json]:
        """List the exports, newest first."""
        return self._pages("/v1/exports")

    def _download(self, export: Json, to: Path, on_download: Callable[[int, int], None]) -> None:
        """Download an export's content, resuming where it was when the connection breaks off."""
        address, total = resource("exports", export["id"], "content"), int(export["bytes"])
        digest = hashlib.sha256()
        with NamedTemporaryFile(dir=to.parent, prefix=f".{to.name[:100]}.", suffix=".part", delete=False) as file:
            try:
                broken_off = 0
                while (received := file.tell()) < total:
                    headers = {"Range": f"bytes={received}-", "Accept-Encoding": "identity"}
                    try:
                        with self._http.stream("GET", address, headers=headers, timeout=UPLOAD_TIMEOUT) as response:
                            if not response.is_success:
                                response.read()
                                raise refusal(response)
                            if received and response.status_code != httpx.codes.PARTIAL_CONTENT:
                                raise UnreachableError(
                                    f"{self._http.base_url} cannot resume a download; start the export again"
                                )
                            for block in response.iter_bytes(BLOCK_BYTES):
                                file.write(block)
                                digest.update(block)
                                on_download(file.tell(), total)
                    except httpx.TransportError as error:
                        broken_off = 0 if file.tell() > received else broken_off + 1
                        if broken_off > DOWNLOAD_RETRIES:
                            reason = f"the download broke off {broken_off} times in a row ({type(error).__name__})"
                            raise UnreachableError(f"{reason}; try again") from None
                        time.sleep(1.0)
                if digest.hexdigest() != export["sha256"]:
                    raise UnreachableError(
                        "the downloaded file is damaged (its SHA-256 differs from the export's); download it again"
                    )
            except BaseException:
                os.unlink(file.name)
                raise
        os.replace(file.name, to)
