"""One run of a study in a process of its own: memory is measured alone, and a failure ends no other run.

    python -m frostline.study.worker RUN.toml FOLDER PROBE.json DRIFT.json

Trains, or goes on, or leaves a run that has ended; then measures its drift on the texts of PROBE.json.
Events go to the standard output, a JSON line each. Stops after a step when its parent is gone.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

_SHOWN = {
    "progress", "embedding", "solved", "evaluation", "phase", "thaw", "plateau", "phase_end", "warning",
    "guard",
}  # fmt: skip
_SECONDS_BETWEEN = 0.2


def work(config: Path, folder: Path, probe: Path, drift: Path) -> None:
    """Carries out one run and measures its drift; what is there already is left."""
    from frostline.config import Config
    from frostline.run import resume, train

    tell = _Teller()
    if (folder / "config.toml").is_file():
        resume(folder, show=tell)
    else:
        train(Config.load(config), output=folder, show=tell)
    if not drift.is_file():
        _measure_drift(folder, probe, drift)


def _measure_drift(folder: Path, probe: Path, drift: Path) -> None:
    from frostline.atomic import write_json
    from frostline.config import Config
    from frostline.data.batches import tokenize
    from frostline.model.bundle import load_bundle
    from frostline.model.device import Precision, choose_device
    from frostline.model.loading import load_backbone
    from frostline.study.drift import measure_drift

    config = Config.load(folder / "config.toml")
    before, after = load_backbone(config.model), load_bundle(folder)[0].backbone
    texts = json.loads(probe.read_text("utf-8"))
    tokens = tokenize(before.tokenizer, texts, max_length=before.max_length, prompt=before.prompt)
    precision = Precision("bf16" if config.train.precision == "bf16" else "fp32", "that of the run")
    device = choose_device(config.train.device)
    write_json(drift, measure_drift(before, after, tokens, precision=precision, device=device).content())


class _Teller:
    """Prints events that can be shown elsewhere; progress not more often than a person sees."""

    def __init__(self) -> None:
        self._last = 0.0

    def __call__(self, event: dict[str, Any]) -> None:
        if event["event"] not in _SHOWN:
            return
        if event["event"] in {"progress", "embedding"}:
            now = time.monotonic()
            if now - self._last < _SECONDS_BETWEEN:
                return
            self._last = now
        _tell(event)


def _tell(event: dict[str, Any]) -> None:
    """Prints an event; a parent that is gone reads none, and the run is to commit all the same."""
    with suppress(BrokenPipeError):
        print(json.dumps(event), flush=True)


def _stop_with_parent() -> None:
    """The parent holds the other end of the standard input; when it is gone, the run stops after its step."""
    while os.read(0, 4096):  # not sys.stdin, whose lock would be held when this process ends first
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """Exit code 2 and an event `error` for a mistake of the user's; 143 when it was asked to stop."""
    from frostline.errors import FrostlineError, Interrupted

    threading.Thread(target=_stop_with_parent, daemon=True).start()
    try:
        work(*(Path(name) for name in sys.argv[1:5]))
    except Interrupted as stop:
        sys.exit(128 + stop.signal)
    except (FrostlineError, OSError) as error:
        if os.environ.get("FROSTLINE_DEBUG"):
            raise
        _tell({"event": "error", "message": str(error)})
        sys.exit(2)


if __name__ == "__main__":
    main()
