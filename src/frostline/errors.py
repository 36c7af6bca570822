"""Every refusal frostline makes on purpose.

    FrostlineError            exit code 2 and one paragraph; anything else is a bug of ours
    ├── ConfigError           a key of the run's file, or a flag, is wrong or contradicts another
    ├── DataError             a file, row, column or label is not what the task needs
    ├── BackboneError         pretrained weights are missing, unsafe, or of an unknown architecture
    ├── FreezeError           something frozen moved, or nothing learns although it should
    ├── CacheError            stored activations do not belong to this model and these texts
    ├── RunError              a run's folder is taken, in use, or cannot be written
    ├── CheckpointError       no checkpoint of a run can be trusted
    ├── BundleError           a model folder is incomplete, damaged or not one of ours
    └── TrainingError         the numbers went wrong: a loss that is not finite

A message says where, what arrived, what is accepted and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FrostlineError(Exception):
    """Base of every error that a user can mend."""


class ConfigError(FrostlineError):
    """A setting is unknown, out of range, or contradicts another."""


class DataError(FrostlineError):
    """Texts or labels are not usable; the message names file and row."""


class BackboneError(FrostlineError):
    """Pretrained weights cannot be found, trusted or run in stages."""


class FreezeError(FrostlineError):
    """What a plan says is frozen is not, or nothing is left to learn."""


class CacheError(FrostlineError):
    """Stored activations do not match what they are asked for."""


class RunError(FrostlineError):
    """A run's folder cannot be used."""


class CheckpointError(FrostlineError):
    """No checkpoint can be trusted, or it belongs to another run."""


class BundleError(FrostlineError):
    """A model folder cannot be loaded."""


class TrainingError(FrostlineError):
    """Training cannot go on."""


class Interrupted(BaseException):
    """Training stopped on request, after a step and a commit. Not an error: nothing is to be mended.

    Attributes:
        signal: number of the signal that asked for it; 2 is Ctrl-C.
    """

    signal = 2


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A sentence that names the nearest known word, or an empty string; starts with a space."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" Did you mean '{near[0]}'?" if near else ""


def listing(items: Iterable[object], *, most: int = 8) -> str:
    """Items joined by commas, cut after `most` with the number left out."""
    names = [str(item) for item in items]
    tail = f", … ({len(names) - most} more)" if len(names) > most else ""
    return ", ".join(names[:most]) + tail


def counted(number: int, noun: str) -> str:
    """A number and what is counted: '1 row', '2 rows'."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
