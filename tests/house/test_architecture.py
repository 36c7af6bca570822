"""The rules of the house, read from the imports."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "frostline"
# A module may import what stands above it here, and what is in its own room.
FLOORS = [
    {"errors", "environment"},
    {"settings", "mistakes", "atomic", "locks", "places", "signals"},
    {"cache"},
    {"data"},
    {"model"},
    {"plan"},
    {"training"},
    {"inference"},
    {"config", "notices"},
    {"folder", "results", "prepare", "start"},
    {"fingerprint"},
    {"run", "dry_run", "starter"},
    {"study"},
    {"terminal"},
    {"watcher"},
    {"cli"},
    {"__main__"},
]
OWNERS = {
    "sentence_transformers": {"model"},
    "transformers": {"model", "data/batches.py", "data/opening.py", "data/token_cache.py"},
    "matplotlib": {"plan/picture.py", "training/picture.py"},
    "rich": {"terminal.py", "watcher.py"},
    "typer": {"cli"},
    "filelock": {"locks.py"},
    "huggingface_hub": {"model"},
    "pickle": {"model/loading.py"},  # the name of an error
    "joblib": set(),
}
FILES = sorted(path for path in SOURCE.rglob("*.py") if path.name != "__init__.py")


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def floor_of(room: str) -> int:
    return next(i for i, rooms in enumerate(FLOORS) if room in rooms)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_go_upward_only(path):
    here = path.relative_to(SOURCE)
    room = here.parts[0].removesuffix(".py")
    for name in imported(ast.parse(path.read_text("utf-8"))):
        parts = name.split(".")
        if parts[0] == "frostline" and len(parts) > 1 and parts[1] != room and (SOURCE / parts[1]).exists():
            assert floor_of(parts[1]) < floor_of(room), f"{here} imports {name}, which stands below it"
        if parts[0] == "frostline" and len(parts) > 1 and (SOURCE / f"{parts[1]}.py").exists():
            assert parts[1] == room or floor_of(parts[1]) < floor_of(room), f"{here} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_each_library_has_one_owner(path):
    here = path.relative_to(SOURCE)
    for name in imported(ast.parse(path.read_text("utf-8"))):
        owners = OWNERS.get(name.split(".")[0])
        if owners is not None:
            assert {here.parts[0], here.as_posix()} & owners, f"{here} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_files_and_functions_stay_small(path):
    text = path.read_text("utf-8")
    assert text.count("\n") <= 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 60, f"{path.name}: {node.name}"


def test_every_module_says_what_it_owns():
    for path in FILES:
        assert ast.get_docstring(ast.parse(path.read_text("utf-8"))), path
