"""The folder of a study: what lies where, who owns it, and whether it is the same study.

study.json  base.toml  probe.json  scenarios/NAME/{seed-0.toml, seed-0/, seed-0.drift.json}
compare.json  report.html  trainability.png
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frostline.atomic import write_json, write_text
from frostline.config import Config
from frostline.errors import RunError, listing
from frostline.fingerprint import fingerprint
from frostline.folder import with_rows_on_disk
from frostline.prepare import Prepared
from frostline.study.drift import thinned
from frostline.study.scenarios import Scenario

_FORMAT = 1
_CONTENT = {
    "study.json", "base.toml", "probe.json", "scenarios", "compare.json", "report.html", "trainability.png",
    "data",
}  # fmt: skip
# A record that says so and no more: a study that was killed before it knew what it is about.
_BEGUN = {"format": _FORMAT}
# What must be the same for finished runs to be taken over.
_SAME = ("data", "pretrained weights", "tasks", "model", "device")


@dataclass(frozen=True)
class Place:
    """Paths of a study's folder."""

    folder: Path

    def run(self, scenario: Scenario, seed: int) -> Path:
        """Folder of a run."""
        return self.folder / "scenarios" / scenario.folder / f"seed-{seed}"

    def file(self, scenario: Scenario, seed: int) -> Path:
        """The file from which `frostline train` makes this run."""
        return self.folder / "scenarios" / scenario.folder / f"seed-{seed}.toml"

    def drift(self, scenario: Scenario, seed: int) -> Path:
        """Where the drift of a run is written."""
        return self.folder / "scenarios" / scenario.folder / f"seed-{seed}.drift.json"

    @property
    def probe(self) -> Path:
        """Texts on which drift is measured."""
        return self.folder / "probe.json"

    def is_done(self, scenario: Scenario, seed: int) -> bool:
        """Whether a run and its drift are finished."""
        return (self.run(scenario, seed) / "report.json").is_file() and self.drift(scenario, seed).is_file()

    def paths(self, scenario: Scenario, seed: int) -> tuple[Path, Path, Path, Path]:
        """What a worker is told."""
        return (self.file(scenario, seed), self.run(scenario, seed), self.probe, self.drift(scenario, seed))

    def check_free(self) -> None:
        """Raises RunError when the folder holds files that are no study's."""
        found = self._names()
        is_study = self._record.is_file()
        strangers = found - _CONTENT if is_study else found
        if strangers:
            raise RunError(
                f"{self.folder}: holds files that are no study's ({listing(sorted(strangers))}). Give a new "
                "or an empty --output."
            )

    def clear(self) -> None:
        """Removes an earlier study; rows that it keeps in `data/` stay."""
        names = self._names() - {"data", self._record.name}
        write_json(self._record, _BEGUN)  # one that is killed in between can be overwritten again
        for name in names:
            path = self.folder / name
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

    @property
    def _record(self) -> Path:
        return self.folder / "study.json"

    def _names(self) -> set[str]:
        return {item.name for item in self.folder.iterdir() if not item.name.startswith(".")}

    def open(self, asked: Config, prepared: Prepared, texts: list[str]) -> Config:
        """Starts the study, or goes on with it.

        Args:
            asked: the config as it was given; its plan and the place of its data are not looked at.
            prepared: from it.
            texts: of validation, for the drift.

        Returns:
            The config of every run, without a plan: what this machine decided when the study began.

        Raises:
            RunError: the folder holds a study of another config or other data.
        """
        about = _describe(asked, prepared)
        there = json.loads(self._record.read_text("utf-8")) if self._record.is_file() else _BEGUN
        if there != _BEGUN:
            changed = [name for name, value in about.items() if there.get(name) != value]
            if changed:
                raise RunError(
                    f"{self.folder}: holds a study that differs in {listing(changed)}. Give another "
                    "--output, or --overwrite."
                )
            return Config.load(self.folder / "base.toml")
        write_json(self._record, _BEGUN)
        base = with_rows_on_disk(prepared.config, self.folder)
        if base.data.split_seed is None:
            base = base.with_({"data.split_seed": base.train.seed})
        write_text(self.folder / "base.toml", base.to_toml())
        write_text(self.probe, json.dumps(thinned(texts), ensure_ascii=False))
        write_json(self._record, about)  # the last: from here on it is this study
        return base

    def write_run(self, base: Config, scenario: Scenario, seed: int) -> None:
        """Writes the file of a run, unless it is there.

        Raises:
            RunError: the study has a scenario of this name with another plan.
        """
        plan = {"phases": [phase.model_dump(mode="python") for phase in scenario.phases]}
        text = base.with_({"plan": plan, "train.seed": seed}).to_toml()
        path = self.file(scenario, seed)
        if path.is_file() and path.read_text("utf-8") != text:
            raise RunError(
                f"{path}: this study has a scenario '{scenario.name}' with another plan. Rename it, or give "
                "another --output."
            )
        if not path.is_file():
            write_text(path, text)


def _describe(asked: Config, prepared: Prepared) -> dict[str, Any]:
    parts = fingerprint(prepared)
    train = asked.train.model_dump_json()
    about = {"format": _FORMAT, "training settings": hashlib.sha256(train.encode()).hexdigest()}
    return about | {name: parts[name] for name in _SAME}
