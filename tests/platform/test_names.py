"""A name stands for one column: what would be replaced or refused by Spark is refused when settings are read."""

import re
from typing import Any

import pytest
import yaml

from sie_spark.platform.config import Config, names
from sie_spark.platform.config.base import validate
from sie_spark.platform.config.dataset import Dataset
from sie_spark.platform.errors import ConfigError

EVERYTHING: dict[str, Any] = {
    "name": "x",
    "columns": {"event_ts": "t", "event_type": "k", "label": "y", "session_id": "s", "price": "p"},
    "impressions": {"items": "items", "parallel": {"cost": "prices"}, "list_relative": ["cost"]},
    "history": {"types": ["view", "add to cart"], "session": True, "rates": ["item_id"], "recent_items": 3},
}
ALL_MADE = dict(names.made(Dataset(**EVERYTHING)))


def load(**dataset: Any) -> Dataset:
    changed = {
        key: {**EVERYTHING[key], **value} if isinstance(value, dict) else value
        for key, value in dataset.items()
    }
    return validate(Config, {"dataset": {**EVERYTHING, **changed}}, where="test").dataset


def carried(name: str, way: str) -> dict[str, Any]:
    """The settings that bring a column of one's own to impressions."""
    if way == "parallel":
        return {"impressions": {"parallel": {"cost": "prices", name: "own"}}}
    if way == "context":
        return {"columns": {name: "own"}, "impressions": {"context": [name]}, "event_key": [name]}
    return {"kind": way, "columns": {name: "own"}}


def test_the_names_of_the_issue_are_among_those_that_are_made() -> None:
    assert {"label", "group_key", "click_delay_s", "list_size", "cost_rank", "hist_events"} <= set(ALL_MADE)
    assert {"rate_item_id", "count_item_id", "recent_items", "hist_add_to_cart"} <= set(ALL_MADE)


@pytest.mark.parametrize("way", ["parallel", "context", "impressions"])
@pytest.mark.parametrize("name", ALL_MADE)
def test_a_column_under_a_made_name_is_refused_and_the_remedy_works(name: str, way: str) -> None:
    meant = (*names.SHOWN, *names.TOLD, "label")  # of records that are impressions already
    if (way == "impressions" and name in meant and name not in names.ADDED and name != "event_id") or (
        way == "parallel" and name == "position"
    ):
        load(**carried(name, way))
        return
    for spelled in {name, name.upper(), name.title()}:
        settings = carried(spelled, way)
        with pytest.raises(ConfigError, match=re.escape(spelled)) as error:
            load(**settings)
        said = str(error.value) + error.value.remedy
        assert ALL_MADE[name] in said or "one name to Spark" in said or "dataset.columns" in said
        if "leave it out of dataset.impressions.context" in error.value.remedy:
            load(columns={spelled: "own"}, event_key=[spelled], impressions={"context": []})
        elif other := re.search(r"e\.g\. (\w+)", error.value.remedy):
            load(**carried(other[1], way))
        else:
            assert "give one of them another name" in error.value.remedy


@pytest.mark.parametrize(
    "name", [*names.ADDED, names.SHOWN_BY, "Event_Date", "event_id", "_own", "a b", "1a"]
)
@pytest.mark.parametrize("kind", ["events", "tabular"])
def test_no_record_has_a_column_under_a_name_that_ingest_makes(name: str, kind: str) -> None:
    with pytest.raises(ConfigError, match=f"dataset.columns.*{name}"):
        load(columns={name: "own"}, kind=kind)


def test_an_event_id_may_be_what_a_record_is_known_by() -> None:
    assert load(columns={"event_id": "id"}, event_key=["event_id"]).event_key == ["event_id"]


@pytest.mark.parametrize(
    "changed",
    [
        {"columns": {"click": "c"}, "impressions": {"context": []}, "history": {"types": []}},
        {"kind": "tabular", "columns": {"list_size": "n", "hist_events": "h", "recent_items": "r"}},
        {"columns": {"list_size": "n", "label": "y", "split": "s", "weight": "w"}},  # not carried
        {"kind": "impressions", "columns": {"split": "s", "weight": "w", "pi": "p", "sample_id": "i"}},
        {"impressions": {"context": ["price", "price"], "parallel": {}}},
    ],
)
def test_what_is_kept_apart_is_not_refused(changed: dict[str, Any]) -> None:
    if changed.get("kind") == "tabular":
        changed = {**changed, "impressions": {"items": None, "list_relative": []}}
    load(**changed)


@pytest.mark.parametrize(
    ("changed", "both"),
    [
        ({"impressions": {"context": ["price"], "parallel": {"price": "a"}}}, ["parallel.price", "context"]),
        ({"columns": {"Price": "q"}}, ["'price'", "'Price'"]),
        (
            {"columns": {"a": "1", "rate_a": "2"}, "history": {"rates": ["a_rank"]}}
            | {"impressions": {"list_relative": ["rate_a"]}},
            ["history.rates", "impressions.list_relative"],
        ),
        (
            {"impressions": {"click_event": {"event": "a", "match": ["user_id"]}}, "columns": {"click": "c"}},
            ["dataset.columns.click", "dataset.impressions.click_event"],
        ),
        (
            {"impressions": {"click": "a", "click_event": {"event": "a", "match": ["user_id"]}}},
            ["dataset.impressions.click ", "dataset.impressions.click_event"],
        ),
        (
            {"impressions": {"click_event": {"event": "a", "match": ["user_id"]}}, "kind": "impressions"},
            ["dataset.columns.label", "dataset.impressions.click_event"],
        ),
    ],
)
def test_both_settings_are_named(changed: dict[str, Any], both: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        load(**changed)
    assert all(setting in str(error.value) for setting in both), error.value


def test_a_column_that_only_the_table_has_is_refused_too() -> None:
    """Impressions that came labelled take over every column, those of earlier settings as well."""
    there = ["event_id", "event_date", "label", "Group_Key", "price"]
    dataset = Dataset(name="x", kind="impressions", columns={"label": "y"})
    with pytest.raises(ConfigError, match="table events and stage impressions both .* 'Group_Key'") as error:
        names.check_names(dataset, there)
    assert "dataset.impressions.context, without this one" in error.value.remedy
    chosen = Dataset(name="x", kind="impressions", columns={"label": "y"}, impressions={"context": ["price"]})
    names.check_names(chosen, there)


@pytest.mark.parametrize(
    ("types", "named"),
    [
        (["click", "Click"], ["click", "Click"]),
        (["add-to-cart", "view", "add_to_cart"], ["add-to-cart", "add_to_cart"]),
        (["+", "-"], ["+"]),
        (["view", " "], [" "]),
        (["events"], ["events"]),
        (["List share", "session events"], ["List share"]),
        (["click", "click_2", "Click", "CLICK"], ["click", "Click"]),
        ({"click": "click", "Click": "Click"}, ["click", "Click"]),
        ({"a b": "x"}, ["a b"]),
        ({"": "x"}, [""]),
        ({"seconds_since": "x"}, ["seconds_since"]),
    ],
)
def test_types_that_would_be_one_column_are_named_as_the_remedy_says(types: Any, named: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"dataset\.history\.types: ") as error:
        load(history={"types": types})
    assert all(f"'{one}'" in str(error.value) for one in named)
    mended = yaml.safe_load(error.value.remedy.partition("dataset.history.types: ")[2])
    history = load(history={"types": mended}).history
    given = list(types.values()) if isinstance(types, dict) else types
    assert list(history.counted.values()) == given and len(history.counted) == len(given)


def test_types_may_be_a_list_or_a_map_and_a_type_named_twice_is_one() -> None:
    assert load(history={"types": ["Add to cart", "Add to cart"]}).history.counted == {
        "hist_add_to_cart": "Add to cart"
    }
    named = {"plus": "+", "minus": "-"}
    assert load(history={"types": named}).history.counted == {"hist_plus": "+", "hist_minus": "-"}
    with pytest.raises(ConfigError, match=r"setting 'dataset\.history\.types': Input should be a valid list"):
        load(history={"types": 5})
