"""The run's file: every mistake is named with its key, what arrived and what is accepted."""

import tomllib

import pytest

from frostline.config import Config, parse_change
from frostline.errors import ConfigError

FILE = """
[data]
train = "train.csv"
[tasks.topic]
[plan]
recipe = "heads"
"""


def load(tmp_path, text=FILE, **changes):
    path = tmp_path / "run.toml"
    path.write_text(text, "utf-8")
    return Config.load(path, changes={key.replace("__", "."): value for key, value in changes.items()})


def test_the_resolved_file_gives_the_same_config(tmp_path):
    config = load(tmp_path)
    again = Config.build(tomllib.loads(config.to_toml()))
    assert again == config
    assert "gradient_accumulation_steps = 1" in config.to_toml()


def test_paths_are_found_from_here_or_beside_the_file(tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "train.csv").touch()
    (tmp_path / "folder" / "weights").mkdir()
    monkeypatch.chdir(tmp_path)
    config = load(tmp_path / "folder", model__backbone="weights")
    assert config.data.train[0].path == tmp_path / "folder" / "train.csv"
    assert config.model.backbone == str(tmp_path / "folder" / "weights")
    (tmp_path / "train.csv").touch()
    assert load(tmp_path / "folder").data.train[0].path == tmp_path / "train.csv"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("plan.recepi", "heads", "plan.recepi: unknown key. Did you mean 'recipe'"),
        ("plan.body_lr", 1e-5, "plan.body_lr: unknown key. Did you mean 'backbone_lr'"),
        ("model.encoder", "x", "model.encoder: unknown key. Did you mean 'backbone'"),
        ("data.dev", "x", "data.dev: unknown key. Did you mean 'validation'"),
        ("train.epochs", 3, "train.epochs: unknown key. Did you mean 'plan.epochs'"),
        ("plan.temperature", 2, "plan.temperature: unknown key. Did you mean 'plan.phases.0.temperature'"),
        ("data.lr", 1e-4, "data.lr: unknown key. Did you mean 'plan.head_lr'"),
        ("seed", 1, "seed: unknown key. Did you mean 'train.seed'"),
        ("train.seed", True, "train.seed: a number is needed, true arrived"),
        ("plan.head_lr", False, "plan.head_lr: a number is needed, false arrived"),
        (
            "tasks.topic.class_weights",
            {"a": True},
            "tasks.topic.class_weights: a number is needed, true arrived",
        ),
        (
            "tasks.sentiment.class_weights",
            "balance",
            "should be 'balanced', 'balance' arrived. Or write a table.",
        ),
        ("labels", ["a"], "labels: unknown key. Known here"),
        ("plan.phases", [{"layers": 2}], r"plan.phases\[0\].layers: unknown key. (?!.*layer_lrs.0)"),
        ("data.labels", "x", "data.labels: unknown key. Known here"),
        ("trian.seed", 1, "trian: unknown key. Did you mean 'train'"),
        ("plan.head_lr", -1e-3, r"plan.head_lr: should be greater than 0, -0.001 arrived"),
        ("plan.head_lr", "fast", r"plan.head_lr: .*number.*'fast' arrived"),
        ("plan.head_lr", float("nan"), "plan.head_lr: .*finite"),
        ("train.precision", "fp16", "train.precision: .*'auto', 'bf16' or 'fp32'.*'fp16' arrived"),
        ("train.keep_last", 1, "train.keep_last: .*greater than or equal to 2"),
        ("tasks.topic.kind", "regresion", "tasks.topic.kind: .*'regression'"),
        ("tasks.topic.label_smoothing", 1.0, "tasks.topic.label_smoothing: .*less than 1"),
        ("tasks.topic.labels", ["a"], r"tasks.topic.labels: 2 or more are needed, \['a'\] arrived"),
        ("tasks.topic.labels", ["a", "a"], "tasks.topic: labels: a name stands twice"),
        ("tasks.topic.separator", ",", "tasks.topic: separator is for kind 'multilabel'"),
        ("tasks.to pic.column", "x", "tasks.to pic: a task's name is a letter followed by"),
        ("plan.phases", [{"epochs": 1}], "plan: recipe and phases are both given"),
        ("data.train", 5, "data.train: a file, a list of files, or rows are needed, int arrived"),
    ],
)
def test_a_wrong_key_or_value_is_named(tmp_path, key, value, message):
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, **{key: value})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[data", "run.toml: not valid TOML"),
        ("[data]\ntrain = 'a'\ntrain = 'b'", "not valid TOML"),
        ("[tasks.a]", "data: is missing"),
        ("[data]\ntrain = 'a.csv'\n[tasks]", "tasks: none. Add one"),
        ("[data]\ntrain = 'a.csv'", "tasks: is missing"),
        ("data = 3\n[tasks.a]", "data: "),
    ],
)
def test_a_file_that_is_no_config_is_refused(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, text)


def test_a_missing_file_says_how_to_make_one(tmp_path):
    with pytest.raises(ConfigError, match="nothing.toml: cannot be read .* frostline init DATA"):
        Config.load(tmp_path / "nothing.toml")


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("train.seed=3", "train.seed", 3),
        ("plan.head_lr=1e-4", "plan.head_lr", 1e-4),
        ("plan.recipe=heads", "plan.recipe", "heads"),
        ('plan.frozen_heads=["a"]', "plan.frozen_heads", ["a"]),
        ("model.backbone=a=b", "model.backbone", "a=b"),
        ("plan.top_layers = all", "plan.top_layers", "all"),
    ],
)
def test_changes_of_the_command_line_are_toml_or_words(text, key, value):
    assert parse_change(text) == (key, value)


def test_a_change_without_a_value_is_refused():
    with pytest.raises(ConfigError, match="--set train.seed: key=value is needed"):
        parse_change("train.seed")


def test_a_number_picks_an_item_of_a_list(tmp_path):
    text = "[data]\ntrain='a.csv'\n[tasks.a]\n[[plan.phases]]\nepochs=1\n"
    assert load(tmp_path, text, **{"plan.phases.0.epochs": 7}).plan.phases[0].epochs == 7
    with pytest.raises(ConfigError, match="'3' is no item of the list. There are 1"):
        load(tmp_path, text, **{"plan.phases.3.epochs": 7})
    with pytest.raises(ConfigError, match="'seed' is no table|'x' is no"):
        load(tmp_path, text, **{"train.seed": 1, "train.seed.x": 1})


def test_a_phase_of_a_recipe_is_written_out_to_be_changed(tmp_path):
    text = "[data]\ntrain='a.csv'\n[tasks.a]\n[plan]\nrecipe='gradual'\nbackbone_lr=5e-5\n"
    phases = load(tmp_path, text, **{"plan.phases.1.epochs": 7}).plan.phases
    assert [phase.name for phase in phases] == ["heads", "thaw", "heads again"]
    assert (phases[1].epochs, phases[1].backbone_lr, phases[1].top_layers) == (7, 5e-5, 2)
    with pytest.raises(ConfigError, match="'3' is no item of the list. There are 3"):
        load(tmp_path, text, **{"plan.phases.3.epochs": 7})
    with pytest.raises(ConfigError, match="plan.rezept: unknown key"):
        load(tmp_path, text, **{"plan.rezept": "heads", "plan.phases.1.epochs": 7})
    phases = load(tmp_path, text, **{"plan.phases.1.epochs": 7, "plan.recipe": "top-layers"}).plan.phases
    assert (phases[1].name, phases[1].epochs) == ("top layers", 7)
    config = load(tmp_path, text)
    changed = config.with_({"plan.phases.1.head_lr": 1e-2, "plan.phases.1.epochs": 2}).plan.phases[1]
    assert (changed.head_lr, changed.epochs, changed.min_steps) == (1e-2, 2, None)
    assert config.with_({"plan.phases.1.head_lr": 1e-2}).plan.phases[1].min_steps == 128


def test_a_plan_that_is_no_table_is_refused_with_its_keys(tmp_path):
    with pytest.raises(
        ConfigError, match="plan: a table of keys is needed, 'heads' arrived. Known here: recipe"
    ):
        load(tmp_path, plan="heads")


@pytest.mark.parametrize("plan", ["'heads'", "[]", "{ phases = 3 }"])
def test_a_plan_of_another_type_is_refused_when_a_phase_is_changed(plan, tmp_path):
    text = f"plan = {plan}\n[data]\ntrain='a.csv'\n[tasks.a]\n"
    with pytest.raises(ConfigError, match="plan"):
        load(tmp_path, text, **{"plan.phases.0.epochs": 7})


def test_a_recipe_that_needs_a_frozen_head_is_written_out_with_it(tmp_path):
    text = (
        "[data]\ntrain='a.csv'\n[tasks.a]\n[tasks.b]\nfrozen=true\nhead_from='x'\n[plan]\nrecipe='one-head'\n"
    )
    phases = load(tmp_path, text, **{"plan.phases.1.epochs": 7}).plan.phases
    assert phases[-1].frozen_heads == ("b",)


def test_a_recipe_of_the_command_line_replaces_written_phases(tmp_path):
    text = "[data]\ntrain='a.csv'\n[tasks.a]\n[[plan.phases]]\nepochs=1\n"
    config = load(tmp_path, text, plan__recipe="heads")
    assert config.plan.recipe == "heads"
    assert config.plan.phases == ()


def test_with_changes_a_copy(tmp_path):
    config = load(tmp_path)
    other = config.with_({"train.seed": 5})
    assert (config.train.seed, other.train.seed) == (0, 5)


def test_with_reaches_into_phases(tmp_path):
    text = "[data]\ntrain='a.csv'\n[tasks.a]\n[[plan.phases]]\nepochs=1\n"
    config = load(tmp_path, text).with_({"plan.phases.0.epochs": 2, "plan.phases.0.head_lr": 1e-2})
    assert (config.plan.phases[0].epochs, config.plan.phases[0].head_lr) == (2, 1e-2)


def test_what_a_union_of_types_refuses_is_said_once(tmp_path):
    with pytest.raises(ConfigError) as refused:
        load(tmp_path, plan__top_layers="some")
    assert str(refused.value).startswith("plan.top_layers: ")
    assert len(str(refused.value).splitlines()) == 1


def test_rows_in_memory_are_data_too():
    rows = [{"text": "a", "topic": "b"}]
    config = Config.build({"data": {"train": rows}, "tasks": {"topic": {}}})
    assert config.data.train[0].rows == rows
    assert config.with_({"train.seed": 1}).data.train[0].rows == rows


def test_every_setting_says_what_it_is():
    from frostline.data.dataset import DataSettings
    from frostline.data.labels import TaskSettings
    from frostline.model.domains import ModelSettings
    from frostline.plan.phase import Phase, PlanSettings
    from frostline.training.settings import TrainSettings

    for settings in (DataSettings, TaskSettings, ModelSettings, Phase, PlanSettings, TrainSettings):
        for name, field in settings.model_fields.items():
            assert field.description, f"{settings.__name__}.{name}"


def test_a_data_file_in_place_of_a_config_is_recognised(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text("text,topic\na,b\n")
    with pytest.raises(ConfigError, match=r"not valid TOML .* frostline init .*train\.csv"):
        Config.load(path)
