"""A run that starts from a finished model: its backbone and all its heads, and what is new beside them."""

from __future__ import annotations

from pathlib import Path

from frostline.config import Config
from frostline.data.labels import TaskSettings
from frostline.errors import ConfigError
from frostline.model.bundle import read_about, read_head
from frostline.places import bundle_folder


def with_bundle(config: Config, bundle: str | Path) -> Config:
    """The config with the backbone and the heads of a bundle.

    A task of the bundle that the config names goes on from the bundle's head, and learns where the plan says
    so. One that it does not name is carried along, frozen: with a frozen backbone it answers as before, to
    the bit.

    Args:
        config: of the run; names the tasks that are new or go on learning. Its backbone is not read.
        bundle: folder of a bundle or of a run.

    Raises:
        BundleError: no bundle.
        ConfigError: a setting that would change what the bundle's heads read.
    """
    folder = bundle_folder(Path(bundle)).absolute()
    about = read_about(folder)
    if "max_length" in config.model.model_fields_set and config.model.max_length != about.max_length:
        raise ConfigError(
            f"model.max_length: {config.model.max_length} given, but the heads of {folder} have learned on "
            f"texts of {about.max_length} tokens. Leave it out."
        )
    model = config.model.model_copy(update={"backbone": str(folder), "max_length": about.max_length})
    tasks = {
        name: task.model_copy(update={"head_from": str(folder)})
        if name in about.tasks and not task.head_from
        else task
        for name, task in config.tasks.items()
    }
    for name in about.tasks:
        if name not in tasks:
            column = read_head(folder, name).task.column
            owners = [other for other, task in tasks.items() if (task.column or other) == column]
            if owners:
                raise ConfigError(
                    f"tasks.{owners[0]}.column: '{column}' is what the model's task '{name}' reads. Rename "
                    "it for the new task: data.train = { path = …, rename = { … } }."
                )
            tasks[name] = TaskSettings(column=column, head_from=str(folder), frozen=True)
    return config.model_copy(update={"model": model, "tasks": tasks})
