"""The `spectrum` command in this process, against the real stack or a fake server."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from hessian_spectrum.client.http import SpectrumClient
from hessian_spectrum.client.main import app
from hessian_spectrum.client.testing import FakeServer, example_result

Command = Callable[..., Result]


def called(*arguments: str, text: str | None = None) -> Result:
    return CliRunner().invoke(app, list(arguments), input=text)


@pytest.fixture
def spectrum(server: Any) -> Command:
    def call(*arguments: str, text: str | None = None) -> Result:
        return called(*arguments, "--url", server.url, text=text)

    return call


@pytest.fixture
def own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of servers of this test, without settings of the environment beside it."""
    for name in ("SPECTRUM_URL", "SPECTRUM_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "settings" / "servers.json"
    monkeypatch.setenv("SPECTRUM_CONFIG", str(path))
    return path


@pytest.fixture
def fake(own_file: Path, monkeypatch: pytest.MonkeyPatch) -> FakeServer:
    """The server that `called` reaches, in memory."""
    server = FakeServer(example_result("exact"))
    for module in ("session", "servers"):
        name = f"hessian_spectrum.client.commands.{module}.SpectrumClient"
        monkeypatch.setattr(name, partial(SpectrumClient, transport=server))
    return server
