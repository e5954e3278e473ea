"""A fit may begin with another model's weights, also one that knows fewer ids, or the same ones by other numbers."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from helpers.encoders import keep
from sie_spark.features.encoder import Encoder
from sie_spark.features.identifiers import Category, IdList
from sie_spark.features.numbers import Number
from sie_spark.features.vocabulary import Hashed, Ids, Vocabulary
from sie_spark.models import build_model
from sie_spark.models.store import encoder_beside, encoder_of, save_model
from sie_spark.platform.config import Model
from sie_spark.platform.errors import ConfigError, ModelError
from sie_spark.platform.root import Root, read_bytes
from sie_spark.training.publish import publish, published_model
from sie_spark.training.warm_start import Start, begin_with

SETTINGS = Model(name="dcnv2", embedding_dim=4, hidden=[8], number_bins=3, wide=True)


def encoder_with(items: tuple[str, ...], tags: Ids) -> Encoder:
    return Encoder(
        (
            Category("item", "item", "string", Vocabulary(len(items) + 1, items)),
            IdList("tags", "tags", "string", tags, 3, "bag"),
            Number("price", "price"),
        )
    )


def older_model(root: Root, tags: Ids) -> tuple[str, torch.nn.Module]:
    encoder = encoder_with(("ann", "bob"), tags)
    name, _ = keep(encoder, root)
    model = build_model(SETTINGS, encoder.inputs, seed=3)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    uri = save_model(
        root, model, arm="full", fingerprint="f", settings=SETTINGS, inputs=encoder.inputs, encoder=name
    )
    return uri, model.eval()


def test_ids_are_matched_by_their_values_and_new_ones_begin_afresh(tmp_path: Path) -> None:
    root, tags = Root(tmp_path), Vocabulary(3, ("red", "blue"))
    uri, older = older_model(root, tags)
    newer = encoder_with(("bob", "cy", "ann"), Vocabulary(4, ("blue", "green", "red")))
    _, path = keep(newer, root)
    model = build_model(SETTINGS, newer.inputs, seed=4)
    fresh = build_model(SETTINGS, newer.inputs, seed=4).state_dict()
    known = encoder_of(read_bytes(uri), where=uri)
    begin_with(model, newer.inputs, Start(uri, encoder_beside(uri, known)), path)
    model.eval()
    dense = torch.tensor([[0.5]])

    def logit(which: torch.nn.Module, encoder: Encoder, item: str, *words: str) -> torch.Tensor:
        row = encoder.transform_row({"item": item, "tags": list(words), "price": 0.5})
        return which(torch.tensor([row["cat"]]), dense, tags=torch.tensor([row["tags"]]))

    before = encoder_with(("ann", "bob"), tags)
    for item, words in (("ann", ["red"]), ("bob", ["blue", "red"]), ("nobody", [])):
        torch.testing.assert_close(logit(model, newer, item, *words), logit(older, before, item, *words))
    table = model.state_dict()["input.embedding.table.weight"]
    torch.testing.assert_close(table[2], fresh["input.embedding.table.weight"][2])  # cy
    torch.testing.assert_close(
        model.state_dict()["input.bags.tags.weight"][2], fresh["input.bags.tags.weight"][2]
    )


def test_what_cannot_be_matched_is_refused_by_name(tmp_path: Path) -> None:
    root = Root(tmp_path)
    uri, _ = older_model(root, Vocabulary(3, ("red", "blue")))
    hashed = encoder_with(("ann",), Hashed(8))
    _, path = keep(hashed, root)
    known = encoder_of(read_bytes(uri), where=uri)
    start = Start(uri, encoder_beside(uri, known))
    with pytest.raises(ModelError, match="feature 'tags' has hashed ids"):
        begin_with(build_model(SETTINGS, hashed.inputs, seed=0), hashed.inputs, start, path)
    wider = SETTINGS.model_copy(update={"hidden": [16]})
    same = encoder_with(("ann", "bob"), Vocabulary(3, ("red", "blue")))
    with pytest.raises(ModelError, match=r"'deep.0.weight' is \[16, "):
        begin_with(build_model(wider, same.inputs, seed=0), same.inputs, Start(uri), path)
    with pytest.raises(ModelError, match="not beside it"):
        encoder_beside(uri, "0000")
    with pytest.raises(ModelError, match="no model of this version"):
        encoder_of(b"not a model", where="x.pt")


def test_a_published_model_comes_back_with_its_encoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What MLflow holds of a model is enough for another root's fits to start from it."""
    import mlflow

    there, here = Root(tmp_path / "there"), Root(tmp_path / "here")
    uri, model = older_model(there, Vocabulary(3, ("red", "blue")))
    known = encoder_of(read_bytes(uri), where=uri)
    encoder = encoder_with(("ann", "bob"), Vocabulary(3, ("red", "blue")))
    example = {
        "cat": torch.tensor([[1], [2]]),
        "dense": torch.zeros(2, 1),
        "tags": torch.tensor([[1, 0, 0], [2, 1, 0]]),
    }
    before = mlflow.get_tracking_uri()
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    try:
        with mlflow.start_run(experiment_id=mlflow.create_experiment("published")):
            beside = [uri, encoder_beside(uri, known)]
            logged = publish(model, encoder.inputs, example, name="model_weighted", beside=beside)
        place = published_model(SimpleNamespace(root=here), logged)
        with pytest.raises(ConfigError, match="start mlflow:models:/none/1"):
            published_model(SimpleNamespace(root=here), "models:/none/1")
    finally:
        mlflow.set_tracking_uri(before)
    assert read_bytes(place) == read_bytes(uri) and place.startswith(here.uri)
    assert Encoder.load(encoder_beside(place, known)) == encoder
