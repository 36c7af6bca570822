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


@pytest.mark.parametrize(("also_ignored", "told"), [(True, [2, 15]), (False, [15])])
def test_a_signal_that_the_process_ignores_is_answered_where_that_is_asked(ignored, also_ignored, told):
    numbers = []
    with answering(lambda number, _: numbers.append(number), also_ignored=also_ignored):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
    assert numbers == told
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
