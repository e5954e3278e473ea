"""Every setting a YAML file may hold: name, kind, default and meaning, from the typed settings themselves."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from sie_spark.platform.config.base import Settings
from sie_spark.platform.config.load import Config
from sie_spark.platform.errors import ConfigError

WORDS = {"string": "text", "integer": "whole number", "boolean": "true or false"}
SCALAR = {"type": ["string", "number", "boolean"]}
LIMITS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


def schema() -> dict[str, Any]:
    """JSON Schema of a YAML file, for editors that complete and check by one."""
    found: dict[str, Any] = _as_written(Config.model_json_schema())
    model = found["properties"]["model"]
    found["properties"]["model"] = {
        "anyOf": [{"$ref": model.pop("$ref")}, SCALAR],
        **model,
    }  # package.module:Class
    arm = found["properties"]["arms"]["additionalProperties"]
    found["properties"]["arms"]["additionalProperties"] = {"anyOf": [arm, {"type": "null"}]}
    return found


def _as_written(node: Any) -> Any:
    """Text may stand in YAML as any scalar does: ``007`` or ``yes``, and a choice named ``null`` unquoted."""
    if isinstance(node, list):
        return [_as_written(value) for value in node]
    if not isinstance(node, dict):
        return node
    if node.get("type") == "string" and "enum" not in node:
        return {**node, **SCALAR}
    if node.get("type") == "string" and "null" in node["enum"]:
        return {**node, "type": ["string", "null"], "enum": [*node["enum"], None]}
    return {key: _as_written(value) for key, value in node.items()}


def reference(prefix: str = "", options: Mapping[str, type[Settings]] | None = None) -> str:
    """The settings below a dotted name as text, two lines each.

    Lists of sections are written ``name[]``, sections under names of one's own ``name.NAME``.

    Parameters
    ----------
    options:
        settings that only some choices know, by the name of the mapping that holds them and the choice:
        ``weighting.options (policy share)``.

    Raises
    ------
    ConfigError
        where no setting has the name.
    """
    whole = Config.model_json_schema()
    found = dict(_described(whole, "", whole["$defs"]))
    for name, settings in (options or {}).items():
        found |= dict(_described(settings.model_json_schema(), name, {}))
    chosen = [text for name, text in found.items() if not prefix or _below(name, prefix)]
    if not chosen:
        near = difflib.get_close_matches(prefix, list(found), n=1, cutoff=0.3)
        raise ConfigError(
            f"no setting '{prefix}'",
            remedy=f"did you mean '{near[0]}'?" if near else "'sie settings' names all of them",
        )
    return "\n".join(chosen)


def _below(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith((f"{prefix}.", f"{prefix}[", f"{prefix} "))


def _described(section: dict[str, Any], name: str, defs: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Each setting's name and text: a section's own settings, then the sections below it."""
    inner: list[tuple[str, dict[str, Any]]] = []
    if name:
        yield name, f"\n# {name}: {_one_line(section)}"
    for key, field in section.get("properties", {}).items():
        at = f"{name}.{key}" if name else key
        if below := _section(field, defs):
            suffix = {"array": "[]", "object": ".NAME"}.get(field.get("type", ""), "")
            inner.append((f"{at}{suffix}", below))
            continue
        default = json.dumps(field["default"]) if "default" in field else "required"
        yield at, f"{at}: {_kind(field)} ({default})\n    {_one_line(field)}"
    for at, below in inner:
        yield from _described(below, at, defs)


def _section(field: dict[str, Any], defs: dict[str, Any]) -> dict[str, Any] | None:
    """The section that a field holds, alone, in a list, under names of one's own, or unless it is null."""
    for held in (field, field.get("items", {}), field.get("additionalProperties"), *field.get("anyOf", [])):
        if isinstance(held, dict) and "$ref" in held:
            found: dict[str, Any] = defs[held["$ref"].rsplit("/", 1)[-1]]
            return found
    return None


def _kind(field: dict[str, Any]) -> str:
    """A field's type in words. Example: ``{"type": "integer", "minimum": 1}`` -> ``whole number >= 1``."""
    if "anyOf" in field:
        return " or ".join(map(_kind, field["anyOf"]))
    if "enum" in field:
        return " | ".join(map(str, field["enum"]))
    kind = field["type"]
    if kind == "array":
        return f"list of {_kind(field['items'])}"
    if kind == "object":
        held = field["additionalProperties"]
        return f"map of text to {'anything' if held is True else _kind(held)}"
    limits = [f"{sign} {field[limit]:.10g}" for limit, sign in LIMITS.items() if limit in field]
    return " ".join([WORDS.get(kind, kind), " and ".join(limits)]).strip()


def _one_line(field: dict[str, Any]) -> str:
    return " ".join(field.get("description", "").split())
