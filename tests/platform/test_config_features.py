"""Features that the YAML alone shows to be wrong are refused when it is read."""

from typing import Any

import pytest

from sie_spark.platform.config import Config
from sie_spark.platform.config.base import validate
from sie_spark.platform.errors import ConfigError


def load(*features: dict[str, Any], **dataset: Any) -> Config:
    data = {"name": "x", "columns": {"label": "y"}, "features": list(features), **dataset}
    return validate(Config, {"dataset": data}, where="test")


def one(kind: str, column: str = "a", **more: Any) -> dict[str, Any]:
    return {"column": column, "kind": kind, **more}


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ([one("vector")], "'a': a vector needs its size"),
        ([one("number"), one("category")], "'a': this name is used twice"),
        ([one("number", "Price"), one("category", "price")], "'price': 'Price' has this name"),
        ([one("bag", name="Label")], "'Label': a bag becomes a column of samples, and this name is taken"),
        ([one("text", name="CAT")], "'CAT': a text becomes a column of samples"),
        ([one("vector", name="Score_x", size=2)], "'Score_x': a vector becomes a column of samples"),
        ([one("bag", name="slice_item_id")], "'slice_item_id': a bag becomes"),
        ([one("bag", name="self")], "'self': a bag becomes"),
        ([one("number", "a b")], "'a b': this name cannot be a column"),
        ([one("number"), one("number", "A_missing")], "'a': its missing_indicator.*'A_missing'"),
        ([one("vector", size=2), one("number", "a_missing")], "'a': its missing_indicator.*'a_missing'"),
        ([one("bag", shares="b"), one("text", "b")], "'a': shares 'b', which is no category"),
        ([one("bag", shares="a")], "shares 'a', which is no category"),
        ([one("category", "b"), one("bag", shares="b", hash_size=9)], "ids of 'b', so hash_size would"),
        ([one("category", shares="b"), one("category", "b")], "a category has no shares; it is for bag, seq"),
        ([one("category", "rate_a", back_off=["b"])], "a category has no back_off; it is for number"),
        ([one("number", back_off=["b"])], "only a number over rate_<column> can back off"),
        ([one("number", hash_size=9)], "a number has no hash_size; it is for category, bag"),
        ([one("number", min_count=5)], "a number has no min_count"),
        ([one("number", length=5)], "a number has no length"),
        ([one("category", components=5)], "a category has no components; it is for vector"),
        ([one("category", size=5)], "a category has no size"),
        ([one("category", transform="log")], "a category has no transform; it is for number"),
        ([one("sequence", ngrams=2)], "a sequence has no ngrams; it is for text"),
        ([one("vector", size=3, components=4)], "'a': a vector of size 3 has no 4 components"),
        ([one("category", hash_size=9, min_count=5)], "'a': hashing counts no values, so min_count would"),
        ([one("bag", hash_size=9, max_vocabulary=8)], "so max_vocabulary would do nothing beside hash_size"),
    ],
)
def test_features_that_cannot_be(features: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        load(*features)
    assert error.value.remedy
    assert str(error.value).startswith("test: dataset.features '")  # the file first, as all settings' errors


def test_features_that_other_settings_name_must_be_there() -> None:
    features = [one("category"), one("number", "b")]
    with pytest.raises(ConfigError, match=r"^test: dataset.start_vectors.user: 'user_id' is no category"):
        load(*features, start_vectors={"item": "a"})
    with pytest.raises(ConfigError, match=r"start_vectors.item: 'b' is no category"):
        load(*features, start_vectors={"user": "a", "item": "b"})
    with pytest.raises(ConfigError, match=r"selection.keep: there is no feature 'c'") as error:
        load(*features, selection={"keep": ["c"]})
    assert "a, b" in error.value.remedy
    with pytest.raises(ConfigError, match="l1 is named twice"):
        load(*features, selection={"methods": ["l1", "information", "l1"]})
    load(*features, selection={"keep": ["b"], "methods": ["l1"]}, start_vectors={"user": "a", "item": "a"})


def test_what_goes_together_loads_and_a_logged_configuration_loads_again() -> None:
    config = load(
        one("number", "label"),
        one("category", "split"),
        one("number", "score_x"),
        one("bag", "items"),
        one("number", "b"),
        one("category", "b_missing", hash_size=9),
        one("number", "c", missing_indicator=False),
        one("number", "c_missing"),
        one("category", "d", min_count=3),
        one("bag", "e", shares="d", hash_size=None),
        one("number", "rate_d", back_off=["e"]),
        one("vector", "v", size=3, components=2),
        one("vector", "w", size=3, components=3),
        one("vector", "u", size=3, missing_indicator=False),
        one("number", "u_missing"),
    )
    assert validate(Config, config.model_dump(mode="json"), where="test") == config
