import threading
import time

import pytest

from feature_store.pacing import Unhurried


def busy(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def test_work_gets_no_more_than_its_share_of_a_core():
    pause = Unhurried(0.25)
    began, worked = time.perf_counter(), time.thread_time()
    for _ in range(10):
        busy(0.002)
        pause()
    worked = time.thread_time() - worked
    assert time.perf_counter() - began >= worked / 0.25 * 0.95


def test_pieces_too_short_for_a_pause_are_added_up():
    pause = Unhurried(0.1)
    began = time.perf_counter()
    for _ in range(40):
        busy(0.0001)
        pause()
    assert time.perf_counter() - began >= 9 * 0.0025  # what is shorter than a piece still waits


@pytest.mark.parametrize("share", [0.0, -1.0, 1.5])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(ValueError, match="share of a core"):
        Unhurried(share)


def test_in_a_hurry_there_are_no_pauses():
    hurry = threading.Event()
    pause = Unhurried(0.000_1, hurry=hurry)
    began = time.perf_counter()
    threading.Timer(0.1, hurry.set).start()
    busy(0.002)
    pause()  # twenty seconds, if nobody were in a hurry
    busy(0.002)
    pause()
    assert time.perf_counter() - began < 10
