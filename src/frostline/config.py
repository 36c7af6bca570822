"""One run's file: the rooms' settings put together, read from TOML, changed by dotted keys, written back.

Holds no default of its own.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import tomli_w
from pydantic import ValidationError

from frostline.data.dataset import DataSettings
from frostline.data.labels import TaskSettings, check_task_names
from frostline.errors import ConfigError
from frostline.mistakes import explanations
from frostline.model.domains import ModelSettings
from frostline.plan.phase import PlanSettings
from frostline.plan.recipes import recipe_of, resolve_phases
from frostline.settings import Settings
from frostline.training.settings import TrainSettings

_DATA_ENDINGS = {".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet"}


class Config(Settings):
    """Everything a run is made of."""

    model: ModelSettings = ModelSettings()
    data: DataSettings
    tasks: dict[str, TaskSettings]
    plan: PlanSettings = PlanSettings()
    train: TrainSettings = TrainSettings()

    @classmethod
    def load(cls, path: str | Path, *, changes: Mapping[str, Any] | None = None) -> Self:
        """Reads a TOML file; data files are looked up from here, then from the file's folder.

        Args:
            path: the file.
            changes: dotted keys to values, such as {"plan.recipe": "heads"}.

        Raises:
            ConfigError: no such file, not TOML, an unknown key, or a value out of range.
        """
        place = Path(path)
        try:
            content = tomllib.loads(place.read_text("utf-8"))
        except OSError as error:
            hint = "Give a file in it." if place.is_dir() else "Write one with frostline init DATA."
            raise ConfigError(f"{place}: cannot be read ({error.strerror}). {hint}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            is_data = any(ending in _DATA_ENDINGS for ending in place.suffixes)
            hint = f" Is it data? Write a file for it: frostline init {place}" if is_data else ""
            raise ConfigError(f"{place}: not valid TOML ({error}).{hint}") from error
        _change(content, changes or {})
        return cls.build(content).located(place.parent)

    @classmethod
    def build(cls, content: Mapping[str, Any]) -> Self:
        """A config from nested dicts, as the TOML file has them.

        Raises:
            ConfigError: an unknown key, or a value out of range.
        """
        try:
            config = cls.model_validate(dict(content))
        except ValidationError as error:
            raise ConfigError("\n".join(explanations(error, settings=cls))) from error
        check_task_names(config.tasks)
        if config.plan.recipe:
            recipe_of(config.plan.recipe)
        return config

    def with_(self, changes: Mapping[str, Any]) -> Self:
        """A copy with dotted keys changed, such as {"train.seed": 1}."""
        content = self.content()
        _change(content, changes)
        return type(self).build(content)

    def content(self) -> dict[str, Any]:
        """Nested dicts and lists that `build` takes; rows in memory are left as they are."""
        content: dict[str, Any] = _with_lists(self.model_dump(mode="python", exclude_none=True))
        for name in ("train", "validation", "test"):
            sources = getattr(self.data, name)
            if sources is not None:
                content["data"][name] = sources
        return content

    def to_toml(self) -> str:
        """The file with every default written out."""
        return tomli_w.dumps(json.loads(self.model_dump_json(exclude_none=True)))

    def located(self, folder: Path) -> Self:
        """A copy with absolute paths: as given from here, or else in `folder`."""
        moved: dict[str, Any] = {}
        for name in ("train", "validation", "test"):
            sources = getattr(self.data, name)
            if sources is not None:
                moved[name] = tuple(
                    source.model_copy(update={"path": _absolute(source.path, folder)})
                    if source.path
                    else source
                    for source in sources
                )
        tasks = {
            name: task.model_copy(update={"head_from": _absolute_folder(task.head_from, folder)})
            if task.head_from
            else task
            for name, task in self.tasks.items()
        }
        model = self.model.model_copy(update={"backbone": _absolute_folder(self.model.backbone, folder)})
        data = self.data.model_copy(update=moved)
        return self.model_copy(update={"data": data, "model": model, "tasks": tasks})


def as_config(config: Config | str | Path | Mapping[str, Any]) -> Config:
    """The config of a file or of nested dicts; one that is a `Config` already is returned."""
    if isinstance(config, str | Path):
        return Config.load(config)
    if isinstance(config, Config):
        return config
    if not isinstance(config, Mapping):
        raise ConfigError(f"config: a file, a Config or a dict is needed, {type(config).__name__} arrived.")
    return Config.build(config)


def _absolute(path: Path, folder: Path) -> Path:
    beside = folder / path
    return (beside if not path.exists() and beside.exists() else path).absolute()


def _absolute_folder(name: str, folder: Path) -> str:
    """A folder's absolute path; a name that is no folder stays."""
    place = _absolute(Path(name).expanduser(), folder)
    return str(place) if place.is_dir() else name


def _with_lists(value: Any) -> Any:
    """Nested settings as TOML has them: lists where frozen settings hold tuples."""
    if isinstance(value, dict):
        return {key: _with_lists(item) for key, item in value.items()}
    return [_with_lists(item) for item in value] if isinstance(value, list | tuple) else value


def parse_change(text: str) -> tuple[str, Any]:
    """`key=value` of the command line; the value is TOML, or a string where it is not.

    Raises:
        ConfigError: no '='.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {text}: key=value is needed, such as plan.recipe=heads.")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value.strip()


def _change(content: dict[str, Any], changes: Mapping[str, Any]) -> None:
    """Sets dotted keys, those of single phases last: a recipe is written out for them."""
    of_phases = [key for key in changes if key.startswith("plan.phases.")]
    for key in changes:
        if key not in of_phases:
            _set(content, key, changes[key])
    if of_phases:
        _write_out(content, of_phases)
    for key in of_phases:
        _set(content, key, changes[key])


def _set(content: dict[str, Any], key: str, value: Any) -> None:
    """Sets a dotted key; a number picks an item of a list."""
    *parents, last = key.split(".")
    place: Any = content
    for part in parents:
        place = place[_item(place, part, key)] if isinstance(place, list) else place.setdefault(part, {})
        if not isinstance(place, dict | list):
            raise ConfigError(f"--set {key}: '{part}' is no table.")
    if key == "plan.recipe" and isinstance(place, dict):
        place.pop("phases", None)
    place[_item(place, last, key) if isinstance(place, list) else last] = value


def _write_out(content: dict[str, Any], keys: Sequence[str]) -> None:
    """Puts the phases of a recipe in place of its name, for keys that change one of them; who asks for a
    number of epochs gets that number.
    """
    plan, tasks = content.get("plan", {}), content.get("tasks")
    if not isinstance(plan, dict) or not isinstance(tasks, dict) or plan.get("phases"):
        return
    try:
        settings = PlanSettings.model_validate(plan)
    except ValidationError as error:
        raise ConfigError("\n".join(explanations(error, settings=Config, within=("plan",)))) from error
    frozen = [name for name, task in tasks.items() if isinstance(task, dict) and task.get("frozen")]
    phases = resolve_phases(settings, tasks=tasks, frozen=frozen)
    written = [_with_lists(phase.model_dump(exclude_none=True)) for phase in phases]
    for index, phase in enumerate(written):
        if f"plan.phases.{index}.epochs" in keys:
            phase.pop("min_steps", None)
    content["plan"] = {"phases": written}


def _item(place: Sequence[Any], part: str, key: str) -> int:
    """The item of a list that a part of a key picks."""
    if not part.isdecimal() or int(part) >= len(place):
        raise ConfigError(f"--set {key}: '{part}' is no item of the list. There are {len(place)}, from 0 on.")
    return int(part)
