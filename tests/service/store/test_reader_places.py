"""Readers of a store that stalls leave the others their threads."""

import threading

import pytest

from service.store.objects import ObjectStoreUnavailableError
from service.store.reader_places import ReaderPlaces
from tests.support.waiting import wait_for


def test_who_comes_while_the_store_answers_waits_for_a_place() -> None:
    places = ReaderPlaces(2, stalled_seconds=60)
    inside, most, reading = 0, 0, threading.Lock()
    go = threading.Event()

    def read() -> None:
        nonlocal inside, most
        with places.place():
            with reading:
                inside += 1
                most = max(most, inside)
            go.wait(30)
            with reading:
                inside -= 1

    threads = [threading.Thread(target=read, daemon=True) for _ in range(7)]
    for thread in threads:
        thread.start()
    wait_for(lambda: inside == 2)
    go.set()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert most == 2


def test_who_comes_after_it_has_stalled_is_refused_until_somebody_gets_away() -> None:
    places = ReaderPlaces(1, stalled_seconds=0.1)
    go, inside = threading.Event(), threading.Event()

    def stuck() -> None:
        with places.place():
            inside.set()
            go.wait(30)

    thread = threading.Thread(target=stuck, daemon=True)
    thread.start()
    assert inside.wait(30)
    for _ in range(2):
        with pytest.raises(ObjectStoreUnavailableError), places.place():
            pass
    go.set()
    thread.join(30)
    with places.place():
        pass


def test_a_reader_who_fails_gives_the_place_back() -> None:
    places = ReaderPlaces(1, stalled_seconds=0.1)
    for _ in range(3):
        with pytest.raises(LookupError), places.place():
            raise LookupError
