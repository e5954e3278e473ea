"""Frozen typed settings that refuse what they do not know and name the nearest valid key."""

from __future__ import annotations

import difflib
import re
import types
import typing
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from sie_spark.platform.errors import ConfigError

CHOICE = re.compile(r"(list|dict|function-\w+)\[")  # which of several kinds pydantic tried


class Settings(BaseModel):
    """Base of every settings section: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


S = TypeVar("S", bound=Settings)


def validate(cls: type[S], data: dict[str, Any], *, where: str) -> S:
    """Build ``cls`` from plain data.

    Raises
    ------
    ConfigError
        naming the file or flag (``where``), the dotted key or feature and, for an unknown key, the nearest valid
        one.
    """
    try:
        return cls.model_validate(data)
    except ConfigError as error:  # of settings that do not go together: it knows their names, not the file
        raise ConfigError(f"{where}: {error}", remedy=error.remedy) from None
    except ValidationError as error:
        lines, remedies = [], []
        for problem in error.errors():
            key = ".".join(str(part) for part in problem["loc"] if not CHOICE.match(str(part)))
            if problem["type"] == "extra_forbidden":
                lines.append(f"unknown setting '{key}'")
                remedies.append(_where_instead(cls, problem["loc"]))
            elif problem["type"] == "missing":
                lines.append(f"setting '{key}' is required")
                remedies.append(f"add '{key}'")
            else:
                lines.append(f"setting '{key}': {problem['msg']} (got {problem['input']!r})")
                remedies.append(f"correct '{key}'")
        remedy = "; ".join(dict.fromkeys(remedies))
        raise ConfigError(f"{where}: " + "; ".join(lines), remedy=remedy) from None


def _where_instead(cls: type[BaseModel], path: tuple[int | str, ...]) -> str:
    """A hint for an unknown setting: the section that has it, the nearest name, or the names there are."""
    name = str(path[-1])
    if len(path) == 1:
        homes = [f"'{at}:'" for at in cls.model_fields if name in valid_names(cls, (at,))]
        if homes:
            return f"'{name}' belongs under {' or '.join(homes)}"
    names = valid_names(cls, path[:-1])
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    return f"did you mean '{near[0]}'?" if near else f"valid names there: {', '.join(sorted(names))}"


def valid_names(cls: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """Names accepted at a dotted path inside a settings class (union tags and list indices are skipped)."""
    found = {cls}
    for part in path:
        step: set[type[BaseModel]] = set()
        for model in found:
            field = model.model_fields.get(str(part))
            if field is not None:
                step |= _models_in(field.annotation)
        found = step or found
    return sorted({name for model in found for name in model.model_fields})


def _models_in(annotation: Any) -> set[type[BaseModel]]:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return {annotation} if issubclass(annotation, BaseModel) else set()
    return {model for arg in typing.get_args(annotation) for model in _models_in(arg)}
