"""A folder is a stage of the data's journey, and no room reaches back."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "sie_spark"
TESTS = PACKAGE.parent / "tests"
# README, "Where things live", has the same list; a room may import those before it
ROOMS = [
    "platform",
    "models",
    "gradients",
    "metrics",
    "simulator",
    "sources",
    "ingest",
    "impressions",
    "features",
    "training",
    "importance",
    "weighting",
    "evaluation",
    "export",
    "report",
    "explanation",
    "upkeep",
]
FORBIDDEN = {
    **dict.fromkeys(("models", "gradients", "metrics"), "pyspark"),
    **dict.fromkeys(("simulator", "sources", "ingest", "impressions", "features"), "torch"),
}
OFF_THE_DATA_PATH = ("sparkContext", "_jvm", ".rdd", "broadcast(sc")
SESSION_ONLY = {"platform/session.py", "platform/doctor.py", "training/distributed.py"}


def imports(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def test_every_room_has_its_place() -> None:
    rooms = {file.parent.name for file in PACKAGE.glob("*/__init__.py")}
    assert rooms == set(ROOMS), "a room that the list does not know, or one that is gone"
    readme = (PACKAGE.parent / "README.md").read_text()
    assert re.findall(r"^\| `sie_spark/(\w+)` \|", readme, flags=re.MULTILINE) == ROOMS


@pytest.mark.parametrize("file", modules(), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_no_room_reaches_back(file: Path) -> None:
    folder = file.relative_to(PACKAGE).parts[0]
    if folder not in ROOMS:
        return  # cli and pipeline stand above every room
    for name in imports(file):
        parts = name.split(".")
        if parts[0] == "sie_spark" and len(parts) > 1:
            assert parts[1] in ROOMS, f"{file} imports {name}, which stands above every room"
            assert ROOMS.index(parts[1]) <= ROOMS.index(folder), f"{file} imports {name}, which stands below"
        assert parts[0] != FORBIDDEN.get(folder), f"{file} imports {name}"


@pytest.mark.parametrize("file", modules(), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_modules_open_by_saying_why(file: Path) -> None:
    text = file.read_text()
    assert ast.get_docstring(ast.parse(text)), f"{file} has no opening lines"
    if str(file.relative_to(PACKAGE)) not in SESSION_ONLY:
        assert not [word for word in OFF_THE_DATA_PATH if word in text]


def test_no_test_imports_another() -> None:
    for file in TESTS.rglob("*.py"):
        for name in imports(file):  # what tests share lies in tests/helpers
            assert not any(part.startswith("test_") for part in name.split(".")), f"{file} imports {name}"
