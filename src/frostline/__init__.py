"""Fine-tune one text encoder for several tasks at once, under a plan that says what is frozen and when.

The names below are public; they are loaded when first used, so that importing frostline is quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from frostline.environment import set_variables as _set_variables

_set_variables()

if TYPE_CHECKING:
    from frostline.config import Config
    from frostline.dry_run import trainability
    from frostline.errors import FrostlineError, Interrupted
    from frostline.inference.model import Model, load
    from frostline.run import Run, resume, train
    from frostline.study.advise import Advice, advise
    from frostline.study.compare import Comparison, compare
    from frostline.study.drift import Drift, drift_between

__all__ = [
    "Advice",
    "Comparison",
    "Config",
    "Drift",
    "FrostlineError",
    "Interrupted",
    "Model",
    "Run",
    "advise",
    "compare",
    "drift_between",
    "load",
    "resume",
    "train",
    "trainability",
]

_HOMES = {
    "Advice": "study.advise",
    "advise": "study.advise",
    "Comparison": "study.compare",
    "Config": "config",
    "Drift": "study.drift",
    "FrostlineError": "errors",
    "Interrupted": "errors",
    "Model": "inference.model",
    "Run": "run",
    "compare": "study.compare",
    "drift_between": "study.drift",
    "load": "inference.model",
    "resume": "run",
    "train": "run",
    "trainability": "dry_run",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'frostline' has no attribute '{name}'")
    from importlib import import_module

    value = getattr(import_module(f"frostline.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
