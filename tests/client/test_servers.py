"""The file of named servers, and which API key is sent where."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from typer.testing import CliRunner

from hessian_spectrum.client.main import app
from hessian_spectrum.client.requests import DEFAULT_URL
from tests.client.conftest import called

EMPTY_LIST = b'{"jobs": [], "next_page_token": null}'


class Recorder:
    """A server without jobs, which remembers the keys that it was sent."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.keys: list[str | None] = []
        self.accepted: set[str | None] | None = None


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            key = self.headers["Authorization"]
            recorder.keys.append(key and key.removeprefix("Bearer "))
            is_accepted = recorder.accepted is None or recorder.keys[-1] in recorder.accepted
            self.send_response(200 if is_accepted else 401)
            self.send_header("Content-Length", str(len(EMPTY_LIST)))
            self.end_headers()
            self.wfile.write(EMPTY_LIST)

        def log_message(self, *arguments: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        recorder = Recorder(f"http://127.0.0.1:{server.server_address[1]}")
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield recorder
        server.shutdown()
        thread.join()


def store(own_file: Path, url: str, default: str | None = None) -> None:
    own_file.parent.mkdir()
    servers = {"lab": {"url": url, "key": "labkey"}, "open": {"url": f"{url}/"}}
    own_file.write_text(json.dumps({"servers": servers} | ({"default": default} if default else {})))


@pytest.mark.parametrize(
    ("server", "environment", "sent"),
    [
        ("lab", "prodkey", "labkey"),
        ("lab", "", "labkey"),
        ("open", "prodkey", "prodkey"),
        ("open", "", None),
        ("ADDRESS", "prodkey", "prodkey"),
        ("ADDRESS", "", "labkey"),
        (None, "prodkey", "labkey"),
        (None, "", "labkey"),
    ],
)
@pytest.mark.parametrize("is_variable", [False, True])
def test_a_stored_server_with_a_key_gets_no_other(
    own_file: Path,
    recorder: Recorder,
    monkeypatch: pytest.MonkeyPatch,
    server: str | None,
    environment: str,
    sent: str | None,
    is_variable: bool,
) -> None:
    store(own_file, recorder.url, default="lab")
    monkeypatch.setenv("SPECTRUM_API_KEY", environment)
    options = [] if server is None else ["--server", server.replace("ADDRESS", recorder.url)]
    if is_variable and options:
        monkeypatch.setenv("SPECTRUM_URL", options[1])
        options = []
    assert called("list", *options).exit_code == 0
    assert recorder.keys == [sent]


@pytest.mark.parametrize("key", ["one\ntwo", "sécret", "secret\x01"])
def test_a_key_that_cannot_be_sent_is_not_shown(
    own_file: Path, recorder: Recorder, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    of_login = called("login", "here", recorder.url, text=key)
    own_file.parent.mkdir(exist_ok=True)
    own_file.write_text(json.dumps({"servers": {"here": {"url": recorder.url, "key": key}}}))
    of_file = called("list", "--server", "here")
    monkeypatch.setenv("SPECTRUM_API_KEY", key)
    of_environment = called("list", "--server", recorder.url)
    for refused in (of_login, of_file, of_environment):
        said = " ".join(refused.output.replace("│", " ").split())
        assert refused.exit_code == 2
        assert "The API key contains characters that an HTTP header cannot have." in said
        assert key.splitlines()[0] not in said
        assert isinstance(refused.exception, SystemExit)
    assert recorder.keys == []


def test_a_key_that_is_no_text_is_refused(own_file: Path) -> None:
    done = CliRunner().invoke(app, ["login", "lab", "http://127.0.0.1:1"], input=b"\xffsecret")
    assert done.exit_code == 2
    assert "The API key contains characters" in done.output
    assert "secret" not in done.output


@pytest.mark.parametrize("name", ["", " ", "a b", "'a'", '"', "a/b", "http://a", "-a"])
def test_a_name_is_one_word(own_file: Path, recorder: Recorder, name: str) -> None:
    assert called("login", "--", name, recorder.url, text="").exit_code == 2
    assert not own_file.exists()


@pytest.mark.parametrize("address", ["ftp://spectra.example.org", "spectra.example.org", "http://", "http://["])
def test_an_address_that_is_none_is_wrong_usage(own_file: Path, address: str) -> None:
    refused = called("login", "lab", address, text="key")
    assert refused.exit_code == 2
    assert "is not the address of a server" in " ".join(refused.output.replace("│", " ").split())
    if "://" in address:
        assert called("list", "--server", address).exit_code == 2


def test_an_empty_name_is_not_looked_up(own_file: Path) -> None:
    refused = called("list", "--server", "")
    assert refused.exit_code == 2
    assert "the name of the server is empty" in refused.output


def test_a_server_that_checks_no_keys_is_told_from_one_that_does(own_file: Path, recorder: Recorder) -> None:
    stored = called("login", "lab", recorder.url, text="anything")
    assert stored.exit_code == 0
    assert "has not checked" in stored.stderr
    assert "has not checked" not in called("login", "lab", recorder.url, text="").stderr
    recorder.accepted = {"right"}
    assert called("login", "lab", recorder.url, text="wrong").exit_code == 1
    stored = called("login", "lab", recorder.url, text="right")
    assert stored.exit_code == 0
    assert "has not checked" not in stored.stderr


def test_after_the_default_server_is_removed_one_knows_where_commands_go(own_file: Path, recorder: Recorder) -> None:
    store(own_file, recorder.url, default="lab")
    assert DEFAULT_URL not in called("logout", "open").stderr
    assert DEFAULT_URL in called("logout", "lab").stderr


def test_servers_are_stored_with_their_keys_for_their_owner_alone(server: Any, own_file: Path) -> None:
    stored = called("login", "here", server.url, text="")
    assert stored.exit_code == 0, stored.output
    assert own_file.stat().st_mode & 0o777 == 0o600
    assert called("list", "--server", "here").exit_code == 0
    assert called("list").exit_code == 0  # the first one is the default
    assert called("login", "there", "http://127.0.0.1:1", text="secret").exit_code == 1
    assert list(json.loads(own_file.read_text())["servers"]) == ["here"]
    file = json.loads(own_file.read_text())
    file["servers"]["there"] = {"url": "http://127.0.0.1:1", "key": "secret"}
    own_file.write_text(json.dumps(file))
    shown = called("servers", "--json").stdout + called("servers").stdout
    assert "there" in shown
    assert "secret" not in shown
    assert called("logout", "here").exit_code == 0
    assert json.loads(own_file.read_text()) == {"servers": {"there": file["servers"]["there"]}}
    assert called("logout", "here").exit_code == 2


@pytest.mark.parametrize("text", ["{", '{"servers": {"a": {}}}', '{"colour": 1}'])
def test_a_file_of_servers_that_is_none_is_named(own_file: Path, text: str) -> None:
    own_file.parent.mkdir()
    own_file.write_text(text)
    refused = called("list")
    assert refused.exit_code == 2
    assert "is not a file of servers" in " ".join(refused.output.split())


def test_a_server_of_an_unknown_name_is_refused(own_file: Path) -> None:
    refused = called("list", "--server", "nowhere")
    assert refused.exit_code == 2
    assert "no server nowhere" in " ".join(refused.output.split())
    assert not own_file.exists()
