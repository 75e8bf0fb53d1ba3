"""API keys in their file: what is kept, who finds it, and how soon changes are seen."""

import json
import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pydantic import ValidationError

from hessian_spectrum.jobs.settings import ServiceSettings, SettingsError
from hessian_spectrum.service.__main__ import require_keys
from hessian_spectrum.service.auth import KeyStore, KeysUnreadableError, UnknownKeyError
from hessian_spectrum.service.keys import main


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "keys.json"


@pytest.fixture
def keys(path: Path) -> KeyStore:
    return KeyStore(path)


def test_without_a_file_no_key_is_required(keys: KeyStore) -> None:
    assert not keys.is_required()
    assert keys.find("spectrum_000000000000_" + "0" * 64) is None


def test_a_key_is_found_as_it_was_made(keys: KeyStore) -> None:
    text = keys.add("Anna", role="admin", requests_per_minute=60, max_queued=5)
    found = keys.find(text)
    assert found is not None
    assert (found.name, found.role, found.requests_per_minute, found.max_queued) == ("Anna", "admin", 60, 5)
    assert keys.is_required()


def test_nothing_else_is_found(keys: KeyStore) -> None:
    text, other = keys.add("Anna"), keys.add("Bob")
    _, key_id, secret = text.split("_")
    _, other_id, _ = other.split("_")
    changed = ("0" if secret[-1] != "0" else "1").join((secret[:-1], ""))
    wrong = [
        "",
        secret,
        f"spectrum_{key_id}_",
        f"spectrum_{key_id}_{changed}",
        f"spectrum_{other_id}_{secret}",
        text.upper(),
        text + "\n",
        f"{text}0",
        keys.all()[0].sha256,
        f"spectrum_{key_id}_{keys.all()[0].sha256}",
    ]
    assert [keys.find(each) for each in wrong] == [None] * len(wrong)


def test_the_file_holds_no_secret_and_is_its_owners_alone(keys: KeyStore, path: Path) -> None:
    texts = [keys.add("Anna"), keys.add("Bob", role="admin")]
    content = path.read_text()
    for text in texts:
        assert text not in content
        assert text.split("_")[2] not in content
        assert text.split("_")[2] not in repr(keys.find(text))
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    assert {file.name for file in path.parent.iterdir()} == {"keys.json", "keys.json.lock"}


def test_another_process_sees_a_change_at_once(keys: KeyStore, path: Path) -> None:
    other = KeyStore(path)
    assert not other.is_required()
    for _ in range(50):  # within one tick of coarse clocks, too
        text = keys.add("Anna")
        found = other.find(text)
        assert found is not None
        keys.revoke(found.id)
        assert other.find(text) is None


def test_when_all_are_revoked_or_the_file_goes_nobody_is_let_in(keys: KeyStore, path: Path) -> None:
    text = keys.add("Anna")
    other = KeyStore(path)
    assert other.find(text) is not None
    keys.revoke(keys.all()[0].id)
    assert other.is_required()
    assert KeyStore(path).is_required()
    path.unlink()
    assert other.is_required()
    assert other.find(text) is None


@pytest.mark.parametrize("content", ["", "{", "[]", '{"keys": [{}]}', '{"keys": 1}', "\0"])
def test_a_damaged_file_lets_nobody_in(keys: KeyStore, path: Path, content: str) -> None:
    text = keys.add("Anna")
    assert keys.find(text) is not None
    whole = path.read_text()
    path.write_text(content)
    for _ in range(2):
        with pytest.raises(KeysUnreadableError):
            keys.find(text)
    with pytest.raises(KeysUnreadableError):
        keys.add("Bob")
    assert path.read_text() == content
    path.write_text(whole)
    assert keys.find(text) is not None


def test_changes_at_once_are_all_made(keys: KeyStore, path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        texts = list(pool.map(lambda number: KeyStore(path).add(f"key {number}"), range(24)))
    assert len(keys.all()) == 24
    assert all(keys.find(text) for text in texts)


def test_an_unknown_id_is_named(keys: KeyStore) -> None:
    keys.add("Anna")
    with pytest.raises(UnknownKeyError, match="000000000000"):
        keys.revoke("000000000000")


@pytest.mark.parametrize(("name", "rate", "queued"), [("", 1, 1), ("x" * 65, 1, 1), ("Anna", 0, 1), ("Anna", 1, -1)])
def test_unfit_values_make_no_key(keys: KeyStore, path: Path, name: str, rate: int, queued: int) -> None:
    with pytest.raises(ValidationError):
        keys.add(name, role="user", requests_per_minute=rate, max_queued=queued)
    assert not path.exists()


def test_the_command_adds_lists_and_revokes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = ("--data-dir", str(tmp_path))
    main(["add", "--name", "Anna B.", "--role", "admin", "--max-queued", "7", *place])
    key = KeyStore(tmp_path / "keys.json").find(capsys.readouterr().out.strip())
    assert key is not None
    assert (key.name, key.role, key.max_queued) == ("Anna B.", "admin", 7)
    main(["list", *place])
    listed = capsys.readouterr().out
    assert listed.split() == [
        *f"{key.id} admin 1200 requests/min 7 queued {key.created_at:%Y-%m-%d %H:%M:%S} Anna B.".split()
    ]
    assert key.sha256 not in listed
    main(["revoke", key.id, *place])
    with pytest.raises(SystemExit, match=key.id):
        main(["revoke", key.id, *place])
    capsys.readouterr()
    main(["list", *place])
    assert capsys.readouterr().out == ""
    assert json.loads((tmp_path / "keys.json").read_text()) == {"keys": []}


def test_the_launcher_passes_the_command_on(tmp_path: Path, keys: KeyStore) -> None:
    keys.add("Anna")
    command = [str(Path(sys.executable).with_name("spectrum-server")), "keys", "list", "--data-dir", str(tmp_path)]
    elsewhere = os.environ | {"SPECTRUM_KEYS_FILE": str(keys.path)}
    listed = subprocess.run(command, capture_output=True, text=True, check=True, env=elsewhere)
    assert listed.stdout.startswith(keys.all()[0].id)


@pytest.mark.parametrize("name", ["", "two\nlines", "\x1b[31m"])
def test_the_command_refuses_names_that_a_terminal_would_obey(tmp_path: Path, name: str) -> None:
    with pytest.raises(SystemExit) as refused:
        main(["add", "--name", name, "--data-dir", str(tmp_path)])
    assert refused.value.code == 2
    assert not list(tmp_path.glob("*.json"))


def test_a_service_that_others_can_reach_says_what_it_lacks(tmp_path: Path) -> None:
    storage = {"SPECTRUM_REDIS_URL": "redis://127.0.0.1", "SPECTRUM_RESULTS_DIR": str(tmp_path / "results")}
    command = [sys.executable, "-m", "hessian_spectrum.service", "--port", "1", "--published-on", "0.0.0.0"]
    refused = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | storage)
    assert refused.returncode == os.EX_CONFIG
    assert "spectrum-server keys add" in refused.stderr


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch, path: Path) -> ServiceSettings:
    monkeypatch.setenv("SPECTRUM_REDIS_URL", "redis://127.0.0.1")
    monkeypatch.setenv("SPECTRUM_RESULTS_DIR", str(path.parent / "results"))
    return ServiceSettings.load()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "::1", "localhost"])
def test_this_machine_alone_needs_no_keys(settings: ServiceSettings, host: str) -> None:
    require_keys(settings, host)


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "", "192.0.2.1", "2001:db8::1", "::ffff:127.0.0.1", "no.such.invalid"]
)
def test_where_others_can_connect_there_must_be_keys(settings: ServiceSettings, keys: KeyStore, host: str) -> None:
    with pytest.raises(SettingsError, match=r"keys add .*--insecure"):
        require_keys(settings, host)
    require_keys(settings.model_copy(update={"insecure": True}), host)
    keys.add("Anna")
    require_keys(settings, host)
    keys.path.write_text("damaged")
    with pytest.raises(KeysUnreadableError):
        require_keys(settings, host)
