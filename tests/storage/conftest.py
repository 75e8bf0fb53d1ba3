"""An object store for the tests of storage."""

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hessian_spectrum.storage.object_store import ObjectStore
from tests.storage.object_store_server import BUCKET, ObjectStoreServer


@pytest.fixture(scope="session")
def object_store_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStoreServer]:
    """One server for all tests, which leave it running."""
    server = ObjectStoreServer(tmp_path_factory.mktemp("object-store") / "server")
    server.start()
    server.make_bucket()
    yield server
    server.kill()


@pytest.fixture
def object_store(
    object_store_server: ObjectStoreServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], ObjectStore]:
    """Opens the same empty store, each time as the machine of a name does."""
    for name, value in object_store_server.environment.items():
        monkeypatch.setenv(name, value)
    prefix = uuid.uuid4().hex

    def open_on(machine: str) -> ObjectStore:
        scratch = tmp_path / f"scratch-{machine}"
        scratch.mkdir(exist_ok=True)
        return ObjectStore(f"s3://{BUCKET}/some/{prefix}", scratch)

    return open_on
