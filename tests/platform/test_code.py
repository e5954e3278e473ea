"""An edited formula is noticed; an edited explanation is not."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sie_spark.platform.code import code_digest

FORMULA = '''"""Opens."""

def weight(score):  # why
    """Says."""
    return 2 * score
'''


@pytest.fixture
def digest_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """The digest of a package with one module below a package below it."""
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "formulas" / "inner" / "one.py"
    file.parent.mkdir(parents=True)
    for folder in (tmp_path / "formulas", file.parent):
        (folder / "__init__.py").write_text("")

    def digest(text: str) -> str:
        file.write_text(text)
        for name in [name for name in sys.modules if name.startswith("formulas")]:
            del sys.modules[name]
        code_digest.cache_clear()
        return code_digest("formulas")

    return digest


def test_words_and_layout_change_nothing(digest_of: Callable[[str], str]) -> None:
    said = FORMULA.replace("Opens", "Begins").replace("# why", "# because").replace("Says", "Tells")
    assert digest_of(said.replace("\n\n", "\n\n\n")) == digest_of(FORMULA)


@pytest.mark.parametrize("change", [("2 * score", "3 * score"), ("score", "value"), ("return", "yield")])
def test_what_is_computed_does(digest_of: Callable[[str], str], change: tuple[str, str]) -> None:
    assert digest_of(FORMULA.replace(*change)) != digest_of(FORMULA)


def test_a_name_that_is_no_module_is_an_error() -> None:
    with pytest.raises(ModuleNotFoundError, match="sie_spark.nowhere"):
        code_digest("sie_spark.nowhere")
