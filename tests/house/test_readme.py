"""What README and docs show is run: Python and commands on a slice of the data, TOML as settings, links as files."""

import json
import re
import shlex
import shutil
import sys
import tomllib
from pathlib import Path

import pytest

from frostline.cli import main
from frostline.config import Config
from frostline.plan.recipes import recipes, resolve_phases

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ROWS = {"train": 96, "validation": 30, "test": 30}


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)


def commands(page):
    lines = "".join(blocks(page, "sh")).splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("frostline ")]


@pytest.fixture(autouse=True, scope="module")
def few_epochs():
    """On a slice of the data the recipes would add epochs until there are enough steps: minutes on each page."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("frostline.plan.phase._MOST_EPOCHS", 2)
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The examples on a slice of the data, with the runs that the pages speak of."""
    place = tmp_path_factory.mktemp("pages")
    shutil.copytree(ROOT / "examples", place / "examples")
    for name, number in ROWS.items():
        file = place / "examples" / "opinions" / f"{name}.jsonl"
        file.write_text("".join(file.read_text("utf-8").splitlines(keepends=True)[:number]), "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for block in blocks(PAGES[0], "python"):
            exec(block, {})
        for command in (
            "init examples/opinions -o mine.toml",
            "train mine.toml --set plan.recipe=features",
            "train examples/demo.toml",
        ):
            patch.setattr(sys, "argv", ["frostline", *command.split()])
            main_quietly()
        shutil.copytree("runs/mine", "runs/opinions")
    return place


def main_quietly():
    try:
        main()
    except SystemExit as end:
        if end.code:
            pytest.fail(f"exit code {end.code}")


@pytest.mark.weights
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_code_and_the_commands_of_a_page_run(page, place, monkeypatch):
    monkeypatch.chdir(place)
    if page.name != "README.md":  # whose code made the runs that the others use
        for block in blocks(page, "python"):
            exec(block, {})
    for arguments in commands(page):
        folder = next(
            (Path(arguments[i + 1]) for i, a in enumerate(arguments) if a in {"-o", "--output"}), None
        )
        if folder and folder.is_dir():
            shutil.rmtree(folder)
        elif folder:
            folder.unlink(missing_ok=True)
        monkeypatch.setattr(sys, "argv", ["frostline", *arguments])
        main_quietly()


@pytest.mark.weights
def test_the_notebook_runs_from_top_to_bottom(place, monkeypatch):
    monkeypatch.chdir(place)
    notebook = json.loads((ROOT / "examples" / "two_tasks.ipynb").read_text("utf-8"))
    names: dict[str, object] = {}
    for cell in notebook["cells"]:
        assert not cell.get("outputs"), "outputs are not kept in the repository"
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    assert names["fl"].trainability(names["config"])._repr_png_().startswith(b"\x89PNG")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_table_of_settings_is_accepted(page):
    for block in blocks(page, "toml"):
        content = tomllib.loads(block)
        content["data"] = {"train": "train.jsonl"} | content.get("data", {})
        content.setdefault("tasks", {"classification": {}, "sentiment": {}})
        config = Config.build(content)
        assert resolve_phases(config.plan, tasks=config.tasks)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    for link in re.findall(r"\]\(([^)#]+)\)", page.read_text("utf-8")):
        if not link.startswith("http"):
            assert (page.parent / link).exists(), link


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=lambda page: page.name)
def test_prose_is_wrapped(page):
    prose = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    assert not [line for line in prose.splitlines() if len(line) > 120 and not line.startswith("|")]


def test_the_plans_page_knows_every_recipe_and_every_key():
    from frostline.plan.phase import Phase

    page = (ROOT / "docs" / "plans.md").read_text("utf-8")
    for name in (*recipes(), *Phase.model_fields):
        assert f"`{name}`" in page, name


def test_the_example_files_are_plans_that_can_be_carried_out():
    for file in sorted((ROOT / "examples").glob("*.toml")):
        config = Config.load(file)
        assert resolve_phases(config.plan, tasks=config.tasks)
        assert all(source.path.is_file() for source in config.data.train), file
