"""A process does not start with variables that it does not understand, and says which."""

from pathlib import Path

import pytest

from hessian_spectrum.jobs.connection import broker_url
from hessian_spectrum.jobs.settings import ServiceSettings, SettingsError, WorkerSettings


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SPECTRUM_REDIS_URL", "redis://:secret@127.0.0.1:6379/0")
    monkeypatch.setenv("SPECTRUM_RESULTS_DIR", str(tmp_path))


def test_each_process_accepts_the_variables_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPECTRUM_CONCURRENCY", "2")
    monkeypatch.setenv("SPECTRUM_MAX_BODY_BYTES", "2048")
    assert WorkerSettings.load().concurrency == 2
    assert ServiceSettings.load().max_body_bytes == 2048


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SPECTRUM_LEASE_SECONDS", "soon"),
        ("SPECTRUM_MAX_ATTEMPTS", "0"),
        ("SPECTRUM_REDIS_URL", "http://:secret@127.0.0.1"),
        ("SPECTRUM_DEVICE", "tpu"),
        ("SPECTRUM_WORKERZ", "2"),
        ("SPECTRUM_MODELS_DIR", "/no/secret/directory"),
    ],
)
def test_an_unfit_variable_is_named_and_its_value_is_not(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=name) as caught:
        WorkerSettings.load()
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("name", ["SPECTRUM_MAX_WAITING_REQUESTS", "SPECTRUM_MAX_LISTENERS"])
def test_an_older_name_of_a_variable_keeps_working(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    assert ServiceSettings.load().max_waiting_requests == 512
    monkeypatch.setenv(name, "7")
    assert ServiceSettings.load().max_waiting_requests == 7
    WorkerSettings.load()
    monkeypatch.setenv(name, "-1")
    with pytest.raises(SettingsError, match=rf"^{name}: "):
        ServiceSettings.load()


def test_the_standard_name_of_a_variable_goes_before_an_older_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPECTRUM_MAX_LISTENERS", "7")
    monkeypatch.setenv("SPECTRUM_MAX_WAITING_REQUESTS", "8")
    assert ServiceSettings.load().max_waiting_requests == 8


def test_a_missing_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPECTRUM_REDIS_URL")
    with pytest.raises(SettingsError, match="SPECTRUM_REDIS_URL"):
        ServiceSettings.load()


def test_the_password_is_not_printed() -> None:
    assert "secret" not in repr(ServiceSettings.load())


@pytest.mark.parametrize(
    ("ours", "celerys"),
    [
        ("redis://:p@host:1/2", "redis://:p@host:1/2"),
        ("rediss://:p@host:1/2", "rediss://:p@host:1/2"),
        ("unix://:p@/run/redis.sock?db=3", "redis+socket://:p@/run/redis.sock?virtual_host=3"),
        ("unix:///run/redis.sock", "redis+socket:///run/redis.sock?virtual_host=0"),
    ],
)
def test_celery_is_told_of_the_same_server(ours: str, celerys: str) -> None:
    assert broker_url(ours) == celerys
