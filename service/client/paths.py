"""Addresses of the API's resources, with ids quoted so that none leads to another path."""

from urllib.parse import quote


def resource(collection: str, *parts: str | int) -> str:
    """Return the address of something below `/v1`.

    Args:
        collection: A name of the API's own, such as `audits`; not quoted.
        parts: What follows, each one quoted segment: ids, row numbers and names.

    Returns:
        A path such as `/v1/audits/aud_1/findings/7`.
    """
    return "/".join(["/v1", collection, *(quote(str(part), safe="") for part in parts)])
