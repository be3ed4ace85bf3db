"""Keys: random, recognisable, and refused when a character is wrong."""

import re
import string

from hypothesis import assume, given
from hypothesis import strategies as st

from service.http.auth.key_format import digest, is_well_formed, new_key, new_token


def test_keys_are_well_formed_and_differ() -> None:
    keys = {new_key() for _ in range(1000)}
    assert len(keys) == 1000
    for key in keys:
        assert re.fullmatch(r"ft_[0-9A-Za-z]{28}", key)
        assert is_well_formed(key)


def test_all_of_the_key_is_random() -> None:
    keys = [new_key() for _ in range(1000)]
    # The first digit of 128 bits in base 62 has a few values only; every other one has them all.
    for position in range(4, 25):
        assert len({key[position] for key in keys}) == 62


@given(st.integers(0, 30), st.sampled_from(string.ascii_letters + string.digits + "_- é"))
def test_one_wrong_character_is_noticed(position: int, character: str) -> None:
    key = new_key()
    assume(key[position] != character)
    assert not is_well_formed(key[:position] + character + key[position + 1 :])


@given(st.text(max_size=60))
def test_anything_else_is_refused(text: str) -> None:
    assert not is_well_formed(text)


def test_cut_or_longer_keys_are_refused() -> None:
    key = new_key()
    for wrong in (key[:-1], key[1:], key + "0", key.swapcase(), "", "ft_"):
        assert not is_well_formed(wrong)


def test_a_digest_is_a_sha256() -> None:
    assert digest("abc").hex() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert len(new_token()) >= 43
