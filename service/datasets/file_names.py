"""What an upload is called, and of which media type it is, when it is given back."""

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
"""By container, or by encoding where the upload was compressed: it is given back as it came."""

_SUFFIXES = {"identity": "", "gzip": ".gz", "zstd": ".zst"}


def media_type(container: str, encoding: str) -> str:
    """Of the bytes as they came."""
    return MEDIA_TYPES[container if encoding == "identity" else encoding]


def file_name(name: str, container: str, encoding: str) -> str:
    """The dataset's name with the endings that tell what it is, unless it has them."""
    ending, compressed = f".{container}", _SUFFIXES[encoding]
    lower = name.lower()
    if compressed and lower.endswith(ending):
        return name + compressed
    return name if lower.endswith(ending + compressed) else name + ending + compressed
