"""What a result owes to the code that made it: the syntax of modules, so that an edited formula is noticed.

Comments, docstrings and layout are left out: to explain a formula makes nothing anew.
"""

from __future__ import annotations

import ast
import importlib.util
import pkgutil
from functools import cache
from importlib.machinery import ModuleSpec

from sie_spark import __version__
from sie_spark.platform.config.load import digest


@cache
def code_digest(*names: str) -> str:
    """A 16-character hash of the syntax trees of modules, and of those below packages.

    Parameters
    ----------
    names:
        dotted names; a package stands for all its modules.

    Raises
    ------
    ModuleNotFoundError
        for a name that is no module.
    """
    return digest({name: _tree(spec) for spec in _specs(names) for name in [spec.name]})


def _specs(names: tuple[str, ...]) -> list[ModuleSpec]:
    found: dict[str, ModuleSpec] = {}
    for name in names:
        spec = importlib.util.find_spec(name)
        if spec is None:
            raise ModuleNotFoundError(f"no module '{name}'", name=name)
        found[name] = spec
        below = [module.name for module in pkgutil.iter_modules(spec.submodule_search_locations or [])]
        found |= {inner.name: inner for inner in _specs(tuple(f"{name}.{module}" for module in below))}
    return list(found.values())


def _tree(spec: ModuleSpec) -> str:
    """The syntax tree as text without places; the version where a module comes without its source."""
    source = getattr(spec.loader, "get_source", lambda name: None)(spec.name)
    if source is None:
        return __version__
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                node.body = node.body[1:]
    return ast.dump(tree)
