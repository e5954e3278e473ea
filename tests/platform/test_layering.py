"""A folder is a stage of the data's journey, and no room reaches back."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "sie_spark"
LEVELS = [
    {"platform"},
    {"models", "gradients"},
    {"clickstream", "features"},
    {"training"},
    {"importance", "weighting", "evaluation"},
    {"benchmark", "report"},
]
LEVEL = {name: level for level, names in enumerate(LEVELS) for name in names}
FORBIDDEN = {"models": "pyspark", "gradients": "pyspark", "clickstream": "torch", "features": "torch"}
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


@pytest.mark.parametrize("file", modules(), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_no_room_reaches_back(file: Path) -> None:
    folder = file.relative_to(PACKAGE).parts[0]
    if folder not in LEVEL:
        return
    for name in imports(file):
        parts = name.split(".")
        if parts[0] == "sie_spark" and len(parts) > 1:
            assert parts[1] in LEVEL, f"{file} imports {name}: cli and pipeline stand above every folder"
            assert LEVEL[parts[1]] <= LEVEL[folder], f"{file} imports {name}, which stands above {folder}"
        assert parts[0] != FORBIDDEN.get(folder), f"{file} imports {name}"


@pytest.mark.parametrize("file", modules(), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_small_modules_that_open_by_saying_why(file: Path) -> None:
    text = file.read_text()
    assert len(text.splitlines()) <= 400
    assert ast.get_docstring(ast.parse(text)), f"{file} has no opening lines"
    if str(file.relative_to(PACKAGE)) not in SESSION_ONLY:
        assert not [word for word in OFF_THE_DATA_PATH if word in text]
