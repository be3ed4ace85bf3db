"""The format of keys and tokens: random, recognisable, and checked for typing errors without a database.

A key is `ft_`, 128 random bits in base 62 (22 characters) and a CRC-32 of both in base 62 (6 characters). Only the
SHA-256 of a key or token is ever stored: 128 random bits need no slow hash.
"""

import hashlib
import secrets
import string
import zlib

KEY_PREFIX = "ft_"
"""How every key begins, so that scanners for leaked secrets find it."""

SHOWN_PREFIX = len(KEY_PREFIX) + 4
"""Characters of a key that are stored in clear, so that people recognise it; 104 random bits stay secret."""

_ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
_RANDOM_LENGTH = 22
_CHECKSUM_LENGTH = 6


def new_key() -> str:
    """Make a new bearer key."""
    body = KEY_PREFIX + _base62(secrets.randbits(128), _RANDOM_LENGTH)
    return body + _checksum(body)


def new_token() -> str:
    """Make a new token for a sign-in link or a cookie: 256 random bits, URL-safe."""
    return secrets.token_urlsafe(32)


def is_well_formed(key: str) -> bool:
    """Return whether the checksum fits, so that a mistyped or cut key is refused without a look-up."""
    body, checksum = key[:-_CHECKSUM_LENGTH], key[-_CHECKSUM_LENGTH:]
    return (
        key.startswith(KEY_PREFIX)
        and len(body) == len(KEY_PREFIX) + _RANDOM_LENGTH
        and key.isascii()
        and checksum == _checksum(body)
    )


def digest(secret: str) -> bytes:
    """Return the SHA-256 of a key or token, which is what is stored of it."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def _checksum(body: str) -> str:
    return _base62(zlib.crc32(body.encode("ascii", "replace")), _CHECKSUM_LENGTH)


def _base62(number: int, length: int) -> str:
    digits = []
    for _ in range(length):
        number, digit = divmod(number, len(_ALPHABET))
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))
