"""Runs a worker process and passes on what it tells, until it ends or is asked to stop."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from frostline.errors import FrostlineError, Interrupted
from frostline.signals import answering
from frostline.training.journal import Event

_LAST_CHARACTERS = 2000


class JobError(FrostlineError):
    """A run of a study failed; the message is the run's own."""


def run_job(paths: Sequence[Path], *, show: Callable[[Event], None]) -> None:
    """Carries out one run in a process of its own.

    Args:
        paths: arguments of `frostline.study.worker`.
        show: called with every event.

    Raises:
        JobError: the run failed.
        Interrupted: a stop was asked; the run has committed its state.
    """
    # -P: no module is taken from the working directory, which may be a stranger's data folder.
    command = [sys.executable, "-P", "-m", "frostline.study.worker", *(str(path) for path in paths)]
    failure = ""
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,  # its end tells the worker that this process is gone
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            encoding="utf-8",
            start_new_session=True,  # a Ctrl-C comes through this process, once
        )
        with _passing_on(process) as asked:
            for event in _events(process):
                if event["event"] == "error":
                    failure = event["message"]
                else:
                    show(event)
            code = process.wait()
        errors.seek(0)
        trouble = errors.read()[-_LAST_CHARACTERS:].strip()
    if asked:
        stop = Interrupted()
        stop.signal = asked[0]
        raise stop
    if code:
        raise JobError(failure or f"its process ended with code {code}. {trouble}")


def _events(process: subprocess.Popen[str]) -> Iterator[Event]:
    assert process.stdout is not None, "no pipe"
    for line in process.stdout:
        with suppress(json.JSONDecodeError):  # what a library may print
            event = json.loads(line)
            if isinstance(event, dict) and "event" in event:
                yield event


@contextmanager
def _passing_on(process: subprocess.Popen[str]) -> Iterator[list[int]]:
    """Ctrl-C and SIGTERM go to the worker, the second one too; gives the signals that came."""
    asked: list[int] = []

    def ask(number: int, _: object) -> None:
        asked.append(number)
        process.send_signal(number)

    try:
        with answering(ask):
            yield asked
    finally:
        if process.poll() is None:
            process.terminate()
        for pipe in (process.stdin, process.stdout):
            if pipe:
                pipe.close()
        process.wait()  # until it has committed and left the run's folder
