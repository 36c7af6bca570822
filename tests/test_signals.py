"""Who is told of Ctrl-C and SIGTERM."""

import os
import signal

import pytest

from frostline.signals import answering


@pytest.fixture
def ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_signal_that_a_background_job_ignores_is_answered_and_then_ignored_again(ignored):
    numbers = []
    with answering(lambda number, _: numbers.append(number)):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
    assert numbers == [signal.SIGINT, signal.SIGTERM]
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
