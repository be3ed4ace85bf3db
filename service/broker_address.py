"""Addresses of a broker as the settings take them, and as kombu does.

One of Redis (redis://, rediss://, redis+socket://), or several, separated by `;`, for a second broker that stands in;
or those of Redis Sentinels, of which the first tells all else: sentinel://:PASSWORD@A:26379/0?master_name=M;sentinel://B
"""

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit, urlunsplit

LISTED = ("redis", "rediss", "sentinel")
"""Schemes of addresses that may be lists of several."""


def checked_address(text: str) -> str:
    """The address, in which TLS is verified unless it says else: kombu would verify nothing.

    Raises:
        ValueError: It is none; the message goes after the setting's name, and quotes nothing.
    """
    addresses = text.split(";")
    schemes = {_scheme(address) for address in addresses}
    if not schemes <= {*LISTED, "redis+socket"}:
        raise ValueError("is no address of a broker: write redis://, rediss://, redis+socket:// or sentinel://")
    (scheme, *others) = schemes
    if others or (len(addresses) > 1 and scheme not in LISTED):
        raise ValueError("names several brokers: they are all of redis://, all of rediss:// or all of sentinel://")
    if scheme == "sentinel" and "master_name" not in parse_qs(urlsplit(addresses[0]).query):
        raise ValueError("names Sentinels and no group of theirs: put ?master_name=NAME behind the first")
    return ";".join(_verified(address) for address in addresses)


def kombu_address(address: str, options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """An address that `checked_address` has passed, as kombu's Connection takes it.

    Args:
        address: The setting.
        options: Transport options of whoever connects.

    Returns:
        The URL, and the transport options, with what kombu wants there and not in the URL.
    """
    first, *others = address.split(";")
    parts = urlsplit(first)
    if parts.scheme != "sentinel":
        return address, dict(options)
    given = dict(parse_qsl(parts.query))
    to_sentinels = {name: value for name, value in options.items() if name.startswith("socket_")}
    if "sentinel_password" in given:
        to_sentinels["password"] = given["sentinel_password"]
    url = ";".join([urlunsplit(parts._replace(query="")), *others])
    return url, {**options, "master_name": given["master_name"], "sentinel_kwargs": to_sentinels}


def _verified(address: str) -> str:
    """With it a server over TLS has to show a certificate that we know, else whoever is in between has the password."""
    parts = urlsplit(address)
    if parts.scheme != "rediss" or "ssl_cert_reqs" in parse_qs(parts.query):
        return address
    query = "&".join(filter(None, [parts.query, "ssl_cert_reqs=required"]))
    return urlunsplit(parts._replace(query=query))


def _scheme(address: str) -> str:
    try:
        parts = urlsplit(address)
        _ = parts.port  # refuses one that is no number
    except ValueError:
        return ""
    return parts.scheme
