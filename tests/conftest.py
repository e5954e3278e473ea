"""One shared local session for every test that needs Spark, and a context per test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sie_spark.platform.config import Config, Session, load_config
from sie_spark.platform.config.base import validate
from sie_spark.platform.context import Context
from sie_spark.platform.progress import Progress
from sie_spark.platform.root import Root

INTERPRETED = {"spark.sql.codegen.wholeStage": "false", "spark.sql.codegen.factoryMode": "NO_CODEGEN"}
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first: of two processes the one with the longest file decides when they end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def spark() -> Iterator[Any]:
    """A local session with Delta, two cores, small partitions; Spark Connect is served beside it."""
    from sie_spark.platform.session import local_session

    served = {
        "spark.plugins": "org.apache.spark.sql.connect.SparkConnectPlugin",
        "spark.connect.grpc.binding.address": "127.0.0.1",
        "spark.connect.grpc.binding.port": "0",
    }
    session = local_session(Session(cores=2, memory="2g", shuffle_partitions=2, conf=served))
    yield session
    session.stop()


@pytest.fixture(scope="session")
def connect(spark: Any) -> str:
    """Where a process finds this session's JVM through Spark Connect, as SPARK_REMOTE."""
    services = spark._jvm.org.apache.spark.sql.connect.service
    service = getattr(getattr(services, "SparkConnectService$"), "MODULE$")  # a Scala object
    return f"sc://127.0.0.1:{service.localPort()}"


@pytest.fixture(autouse=True)
def interpreted(request: pytest.FixtureRequest) -> Iterator[None]:
    """Small tests are interpreted by Spark: compiling takes longer than their rows. Slow ones run as users do."""
    if "spark" not in request.fixturenames or request.node.get_closest_marker("slow"):
        yield
        return
    conf = request.getfixturevalue("spark").conf
    for key, value in INTERPRETED.items():
        conf.set(key, value)
    yield
    for key in INTERPRETED:
        conf.unset(key)


@pytest.fixture
def make_context(spark: Any, tmp_path: Path) -> Callable[..., Context]:
    """``make_context(config, root=...)``: config is a dict, a shipped name, a path or a Config."""

    def make(
        config: Any, *, root: Path | None = None, overrides: tuple[str, ...] = (), **more: Any
    ) -> Context:
        if isinstance(config, dict):
            config = validate(Config, config, where="test")
        elif not isinstance(config, Config):
            config = load_config(config, overrides=overrides, **more)
        return Context(
            config=config, root=Root(root or tmp_path / "root"), progress=Progress(quiet=True), session=spark
        )

    return make


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real logs beside the checkout; tests that need them are skipped where they are not."""
    if not SHARED.is_dir():
        pytest.skip("no shared/data beside the checkout")
    return SHARED
