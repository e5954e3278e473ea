"""YAML whose text stays as it was written: what ``true`` or ``007`` means is left to the setting it is for.

YAML 1.1 makes dates of ``2024-03-01``, numbers of ``12:30`` and truth values of ``yes`` before anyone knows that
a setting wants text. Here no value becomes a date, and the others keep their text until the setting is known.
"""

from __future__ import annotations

import types
import typing
from dataclasses import dataclass
from typing import Annotated, Any

import yaml
from pydantic import BaseModel

DATE = "tag:yaml.org,2002:timestamp"


@dataclass(frozen=True)
class Scalar:
    """An unquoted truth value or number, and the text it was read from."""

    text: str
    value: bool | int | float


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != DATE]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def _keep_text(tag: str) -> None:
    value = yaml.SafeLoader.yaml_constructors[tag]
    _Loader.add_constructor(tag, lambda loader, node: Scalar(node.value, value(loader, node)))


for _kind in ("bool", "int", "float"):
    _keep_text(f"tag:yaml.org,2002:{_kind}")


def read_yaml(text: str) -> Any:
    """Plain data with :class:`Scalar` where a truth value or a number stood; keys are text.

    Raises
    ------
    yaml.YAMLError
        for text that is no YAML.
    """
    return _text_keys(yaml.load(text, Loader=_Loader))


def read_word(text: str) -> Any:
    """:func:`read_yaml` of one value on a command line, where ``#`` begins no comment.

    >>> read_word("sqlite:////runs/exp #1/mlflow.db")
    'sqlite:////runs/exp #1/mlflow.db'
    """
    node = yaml.compose(text, Loader=_Loader)
    plain = node is None or (isinstance(node, yaml.ScalarNode) and node.style is None)
    cut = node is None or node.end_mark.index < len(text.rstrip())
    return text.strip() or None if plain and cut else read_yaml(text)


def settle(data: Any, wanted: Any = Any) -> Any:
    """Text where the annotation ``wanted`` asks for text and nothing else, values everywhere else.

    Worked example: ``settle({"memory": Scalar("4", 4), "cores": Scalar("4", 4)}, Session)`` is
    ``{"memory": "4", "cores": 4}``.
    """
    if isinstance(data, Scalar):
        return data.text if _is_text(wanted) else data.value
    if isinstance(data, list):
        item = _parameter(wanted, list, 0)
        return [settle(value, item) for value in data]
    if isinstance(data, dict):
        fields, other = _fields(wanted), _parameter(wanted, dict, 1)
        return {key: settle(value, fields.get(key, other)) for key, value in data.items()}
    return data


def _text_keys(data: Any) -> Any:
    if isinstance(data, list):
        return [_text_keys(value) for value in data]
    if isinstance(data, dict):
        return {
            key.text if isinstance(key, Scalar) else key: _text_keys(value) for key, value in data.items()
        }
    return data


def _is_text(annotation: Any) -> bool:
    choices = _choices(annotation)
    return str in choices and not {bool, int, float} & set(choices)


def _fields(annotation: Any) -> dict[str, Any]:
    """Name -> annotation of the settings among the choices; empty where there are none."""
    for choice in _choices(annotation):
        if isinstance(choice, type) and typing.get_origin(choice) is None and issubclass(choice, BaseModel):
            return {name: field.annotation for name, field in choice.model_fields.items()}
    return {}


def _parameter(annotation: Any, origin: type, at: int) -> Any:
    """What a ``list[...]`` or ``dict[..., ...]`` among the choices holds."""
    for choice in _choices(annotation):
        if typing.get_origin(choice) is origin:
            return typing.get_args(choice)[at]
    return Any


def _choices(annotation: Any) -> tuple[Any, ...]:
    """The members of a union, or the annotation alone, without what ``Annotated`` adds."""
    if typing.get_origin(annotation) is Annotated:
        return _choices(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return tuple(choice for member in typing.get_args(annotation) for choice in _choices(member))
    return (annotation,)
