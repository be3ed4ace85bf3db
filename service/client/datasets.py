"""Datasets: uploading files, listing and deleting."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from service.client.connection import UPLOAD_TIMEOUT, Connection, without_none
from service.client.dataset_files import files_of
from service.client.errors import Json
from service.client.paths import resource
from service.client.upload_in_parts import FROM_BYTES, blocks_from, upload_in_parts


class Datasets(Connection):
    """The methods of `Client` for datasets."""

    def upload_dataset(
        self,
        path: Path,
        *,
        name: str | None = None,
        format: str = "auto",
        prompt_column: str | None = None,
        answer_column: str | None = None,
        system_column: str | None = None,
        replaces: str | None = None,
        on_progress: Callable[[int, int], None] = lambda sent, total: None,
    ) -> Json:
        """Upload a file of samples as a dataset.

        From 64 MiB on the file is sent in parts, and continues where it was after the connection was lost.

        Args:
            path: JSONL, JSON or CSV (plain, gzip or zstd), Parquet or Arrow; or a folder that `save_to_disk` of
                Hugging Face `datasets` made, with one split.
            name: The dataset's name; by default the file's.
            format: The format of the records, such as `messages`; `auto` recognises it. Leave it out where columns are
                named.
            prompt_column: The column of the prompts, for records in a format of your own.
            answer_column: The column of the answers, likewise.
            system_column: The column of the system prompts, likewise.
            replaces: The id of the dataset of which this becomes the next version.
            on_progress: Called with the bytes sent and the bytes in all.

        Returns:
            The dataset.

        Raises:
            OSError: A file cannot be read, or the folder holds no dataset; `strerror` says what to do.
            ApiError: The service refuses, for instance because records are not valid.
            UnreachableError: It does not answer.
        """
        with ExitStack() as opened:
            files = [opened.enter_context(part.open("rb")) for part in files_of(path)]
            sizes = [os.fstat(file.fileno()).st_size for file in files]
            total = sum(sizes)
            # The service recognises a file by its content.
            headers = {"Content-Type": "application/octet-stream", "Content-Length": str(total)}

            def options() -> Json:
                body = blocks_from(files, sizes, 0, on_progress)
                return {"params": parameters, "headers": headers, "content": body, "timeout": UPLOAD_TIMEOUT}

            more = without_none(
                prompt_column=prompt_column,
                answer_column=answer_column,
                system_column=system_column,
                replaces=replaces,
            )
            parameters = {"format": format, "name": path.name if name is None else name, **more}
            if total >= FROM_BYTES:
                return upload_in_parts(self, files, sizes, parameters, on_progress)
            return self._create("/v1/datasets", options)

    def datasets(self) -> Iterator[Json]:
        """List the datasets, newest first."""
        return self._pages("/v1/datasets")

    def delete_dataset(self, dataset_id: str) -> None:
        """Delete a dataset that no audit uses."""
        self._delete(resource("datasets", dataset_id))
