"""The file name and the media type with which an upload is given back."""

MEDIA_TYPES = {
    "jsonl": "application/jsonl",
    "json": "application/json",
    "csv": "text/csv",
    "parquet": "application/vnd.apache.parquet",
    # Of files too, which have a type of their own: a reader tells them apart by their first bytes.
    "arrow": "application/vnd.apache.arrow.stream",
    "gzip": "application/gzip",
    "zstd": "application/zstd",
}
"""Media types by container, or by encoding if the upload was compressed: it is given back as it came."""

_SUFFIXES = {"identity": "", "gzip": ".gz", "zstd": ".zst"}


def media_type(container: str, encoding: str) -> str:
    """Return the media type of an upload's original bytes.

    Args:
        container: `jsonl`, `json`, `csv`, `parquet` or `arrow`.
        encoding: `identity`, `gzip` or `zstd`, as it was uploaded.
    """
    return MEDIA_TYPES[container if encoding == "identity" else encoding]


def file_name(name: str, container: str, encoding: str) -> str:
    """Return the dataset's name with the endings of its format, unless it has them already.

    Args:
        name: The dataset's name.
        container: `jsonl`, `json`, `csv`, `parquet` or `arrow`.
        encoding: `identity`, `gzip` or `zstd`, as it was uploaded.
    """
    ending, compressed = f".{container}", _SUFFIXES[encoding]
    lower = name.lower()
    if compressed and lower.endswith(ending):
        return name + compressed
    return name if lower.endswith(ending + compressed) else name + ending + compressed
