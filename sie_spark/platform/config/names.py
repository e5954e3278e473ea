"""The columns that the stages make of a data set, beside its own; and one check that no name stands for two.

The stages take their names from here. Names are compared as Spark compares them: Price and price are one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from sie_spark.platform.errors import ConfigError

if TYPE_CHECKING:
    from sie_spark.platform.config.dataset import Dataset, History

# what ingest adds to a record
ADDED = ("event_date", "sampling_rate", "extra", "source_file", "reasons", "record", "unparsed")
SHOWN_BY = "event_item_id"  # of the event, where impressions.click and the like judge a shown item
# what an impression takes over from its event, and the outcomes that the event may tell
OF_EVENT = ("event_id", "event_ts", "event_date", "seq", "user_id", "session_id", "sampling_rate")
SHOWN = (*OF_EVENT, "item_id", "list_id", "position")
TOLD = ("click", "conversion")
MADE = ("impression_id", "label", "label_mature", "click_delay_s", "conversion_delay_s", "group_key")
LIST_SIZE = "list_size"
EVENTS, SINCE = "hist_events", "hist_seconds_since"
LIST_EVENTS, LIST_SHARE = "hist_list_events", "hist_list_share"
SESSION_EVENTS = "hist_session_events"
LAST_IS_ITEM, LAST_DISTANCE = "hist_last_is_item", "hist_last_distance"
RECENT = "recent_items"
# columns of samples, scores, training_set and predictions; an input that is an array is one too
SAMPLE = (
    *("sample_id", "split", "event_date", "event_ts", "group_id", "request_id"),
    *("position", "label", "sampling_rate"),
    *("cat", "dense", "p", "scorer_versions"),
    *("arm", "pi", "offset", "weight", "seed", "policy", "policy_version", "keep", "logit"),
    *("impression_id", "self"),  # self: how Python names the model among its arguments
)
SAMPLE_PREFIXES = ("score_", "slice_", "key_", "_")
KEY = "key_"  # of a column of impressions that rides along, see report.key
STAGE = "stage impressions"


def key_column(name: str) -> str:
    """The column of samples, scores and training_set that carries a column of ``report.key``."""
    return f"{KEY}{name}"


def slug(event_type: str) -> str:
    """An event type as part of a column name; empty where it has neither letter nor digit."""
    return re.sub(r"\W+", "_", event_type.strip().lower()).strip("_")


def counted(types: Sequence[str] | Mapping[str, str]) -> dict[str, str]:
    """Column ``hist_<name>``: event type, of ``history.types``; of types that clean to one name the last."""
    pairs = types.items() if isinstance(types, Mapping) else [(slug(one), one) for one in types]
    return {f"hist_{name}": one for name, one in pairs}


def ranked(column: str) -> tuple[str, str]:
    """What ``impressions.list_relative`` makes of a number: its rank, and its ratio to the list's mean."""
    return f"{column}_rank", f"{column}_ratio"


def rated(column: str) -> tuple[str, str]:
    """What ``history.rates`` makes of a column: its click rate, and of how many impressions."""
    return f"rate_{column}", f"count_{column}"


def remembers(dataset: Dataset) -> bool:
    """Whether impressions have a history: it is asked for, and there are sessions."""
    history, cut = dataset.history, dataset.impressions.session_gap_minutes is not None
    there = dataset.kind == "impressions" and ("session_id" in dataset.columns or cut)
    asked = bool(history.types or history.session or history.recent_items)
    return asked and (dataset.kind == "events" or there)


def has_list_size(dataset: Dataset) -> bool:
    """Whether impressions say how long their list is."""
    return bool(dataset.impressions.list_relative or dataset.impressions.items)


def context_of(dataset: Dataset, columns: Sequence[str]) -> list[str]:
    """The event columns that are carried to impressions: those asked for; without lists all that have no other use."""
    if dataset.kind == "events" or dataset.impressions.context:
        return list(dataset.impressions.context)
    used = (*SHOWN, *TOLD, "label", "event_type", "extra")
    return [name for name in columns if name not in used]


def made(dataset: Dataset) -> Iterator[tuple[str, str]]:
    """The columns that impressions have beside the data set's own: name, and the setting that asks for it."""
    impressions, history = dataset.impressions, dataset.history
    yield from ((name, STAGE) for name in (*SHOWN, *TOLD, *MADE))
    if has_list_size(dataset):
        yield LIST_SIZE, f"dataset.impressions.{'list_relative' if impressions.list_relative else 'items'}"
    for column in impressions.list_relative:
        yield from ((name, "dataset.impressions.list_relative") for name in ranked(column))
    for column in history.rates:
        yield from ((name, "dataset.history.rates") for name in rated(column))
    if not remembers(dataset):
        return
    if history.types:
        columns = (EVENTS, SINCE, LIST_EVENTS, LIST_SHARE, *history.counted)
        yield from ((name, "dataset.history.types") for name in columns)
    if history.session:
        columns = (SESSION_EVENTS, LAST_IS_ITEM, LAST_DISTANCE)
        yield from ((name, "dataset.history.session") for name in columns)
    if history.recent_items:
        yield RECENT, "dataset.history.recent_items"


def own(dataset: Dataset, columns: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The data set's own columns of impressions: name, and the setting that names it; ``columns``: of events."""
    asked = set(dataset.impressions.context)
    for name in context_of(dataset, columns):
        declared = f"dataset.columns.{name}" if name in dataset.columns else "table events"
        yield name, "dataset.impressions.context" if name in asked else declared
    if dataset.impressions.items:
        for name in dataset.impressions.parallel:
            if name != "position":  # which it is there to say
                yield name, f"dataset.impressions.parallel.{name}"


def check_names(dataset: Dataset, events: Sequence[str] | None = None) -> None:
    """Refuse a name that would stand for two columns, or that a table cannot hold.

    Parameters
    ----------
    events:
        the columns of table events, which may hold more than are declared now; default: those.

    Raises
    ------
    ConfigError
        naming both settings, and a name that is free.
    """
    columns = list(dataset.columns)
    if dataset.event_time is not None:
        columns = ["event_ts", *columns]
    _check_columns(dataset, columns)
    _check_types(dataset.history)
    _check_outcomes(dataset)
    makers: dict[str, str] = {}
    for name, setting in made(dataset):
        if (other := makers.get(name.casefold())) is not None:
            raise _both(name, setting, other, "give one of the columns it is made of another name")
        makers[name.casefold()] = setting
    taken = {name.casefold() for name in (*columns, *dataset.impressions.parallel)}
    for name in dataset.impressions.parallel:
        _check_form(name, "dataset.impressions.parallel", (SHOWN_BY,), taken)
    for name, setting in own(dataset, events or columns):
        if (other := makers.get(name.casefold())) is not None:
            raise _both(name, setting, other, _otherwise(dataset, name, setting, {*taken, *makers}))
        makers[name.casefold()] = setting


def _check_columns(dataset: Dataset, columns: Sequence[str]) -> None:
    seen: dict[str, str] = {}
    for name in columns:
        if (twin := seen.get(name.casefold())) is not None:
            raise ConfigError(
                f"dataset.columns: '{twin}' and '{name}' are one name to Spark, which does not tell upper from lower case",
                remedy="give one of them another name",
            )
        seen[name.casefold()] = name
    if "event_id" in columns and "event_id" not in dataset.event_key:
        raise ConfigError(
            "dataset.columns.event_id would not be kept: ingest makes the event_id, and dataset.event_key does not"
            " name yours as what it is made of",
            remedy="set dataset.event_key: [event_id] if it identifies a record, else give the column another name, e.g."
            f" {_free('event_id', seen)}",
        )
    for name in columns:
        reserved = ADDED if "event_id" in columns else (*ADDED, "event_id")
        _check_form(name, "dataset.columns", (*reserved, SHOWN_BY), seen)


def _check_form(name: str, setting: str, reserved: Sequence[str], taken: Container[str]) -> None:
    if name.casefold() in reserved:
        instead = " or say it as dataset.sampling_rate," if name == "sampling_rate" else ""
        raise ConfigError(
            f"{setting}.{name}: the name '{name}' is taken, for a column that is made of every record",
            remedy=f"give yours another name,{instead} e.g. {_free(name, taken)}",
        )
    if name.startswith("_") or not name.isidentifier():
        raise ConfigError(
            f"{setting}: '{name}' cannot be a column's name",
            remedy="take letters, digits and _, a letter first; the source's own name, in backticks, goes into the SQL",
        )


def _check_types(history: History) -> None:
    """Types that would be counted in one column, or in none."""
    types = history.types
    names = list(types) if isinstance(types, dict) else [slug(one) for one in types]
    fixed = (EVENTS, SINCE, LIST_EVENTS, LIST_SHARE, SESSION_EVENTS, LAST_IS_ITEM, LAST_DISTANCE)
    seen: dict[str, str] = dict.fromkeys(fixed, "")
    for name, given in zip(names, types, strict=True):
        column = f"hist_{name}"
        other = seen.get(column.casefold())
        if not re.fullmatch(r"\w+", name):
            wrong = f"'{given}' cannot be part of a column's name"
        elif other is not None:
            also = f"and so would '{other}'" if other else "which says something else"
            wrong = f"'{given}' would be counted in column '{column}', {also}"
        else:
            seen[column.casefold()] = given
            continue
        pairs = list(types.items()) if isinstance(types, dict) else [(one, one) for one in types]
        raise ConfigError(f"dataset.history.types: {wrong}", remedy=_named(pairs, fixed))


def _named(pairs: Sequence[tuple[str, str]], fixed: Sequence[str]) -> str:
    """The setting as a map whose names differ, as it can be pasted."""
    found: dict[str, str] = {}
    taken = set(fixed)
    for given, event_type in pairs:
        base = slug(given) or "type"
        name, at = base, 1
        while f"hist_{name}".casefold() in taken:
            at += 1
            name = f"{base}_{at}"
        taken.add(f"hist_{name}".casefold())
        found[name] = event_type
    written = json.dumps(found, ensure_ascii=False)
    return f"name them yourself, each adds hist_<name>: set dataset.history.types: {written}"


def _check_outcomes(dataset: Dataset) -> None:
    """A column and events that both tell one outcome: the events would silently win."""
    events = {"click": dataset.impressions.click_event, "conversion": dataset.impressions.conversion_event}
    for outcome, attribution in events.items():
        if attribution is None:
            continue
        told = [f"dataset.columns.{outcome}"] if outcome in dataset.columns else []
        if getattr(dataset.impressions, outcome) is not None:
            told = [f"dataset.impressions.{outcome}"]
        if dataset.kind != "events" and dataset.label == outcome:
            told = told or ["dataset.columns.label"]
        if told:
            raise ConfigError(
                f"{told[0]} and dataset.impressions.{outcome}_event both say which impressions have a {outcome}",
                remedy=f"leave out dataset.impressions.{outcome}_event, or take kind: events, where events tell it"
                if told[0] == "dataset.columns.label"
                else "leave out one of them, or give the column another name",
            )


def _both(name: str, setting: str, other: str, remedy: str) -> ConfigError:
    return ConfigError(
        f"{setting} and {other} both give impressions a column '{name}' (upper and lower case are one to Spark)",
        remedy=remedy,
    )


def _otherwise(dataset: Dataset, name: str, setting: str, taken: Container[str]) -> str:
    """What to do about a column of one's own whose name is taken."""
    if setting == "dataset.impressions.context":
        there = (*SHOWN, *TOLD, *(() if dataset.kind == "events" else ("label",)))
        if name in there:
            return "leave it out of dataset.impressions.context: impressions have it anyway"
        return (
            "give the column another name in dataset.columns and dataset.impressions.context, e.g."
            f" {_free(name, taken)}"
        )
    if setting == "table events":
        return "name the columns that impressions take over in dataset.impressions.context, without this one"
    where, free = setting.rpartition(".")[0], _free(name, taken)
    told = f", and set dataset.impressions.{name}: {free}" if name in TOLD else ""
    return f"give it another name in {where}, e.g. {free}{told}"


def _free(name: str, taken: Container[str]) -> str:
    """A name that nothing has yet."""
    found = f"own_{name}".casefold()
    while found in taken:
        found += "_"
    return found
