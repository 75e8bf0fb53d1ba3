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


def test_a_variable_keeps_its_earlier_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ServiceSettings.load().max_waiting_requests == 512
    monkeypatch.setenv("SPECTRUM_MAX_LISTENERS", "7")
    assert ServiceSettings.load().max_waiting_requests == 7
    assert WorkerSettings.load().concurrency == 1
    monkeypatch.setenv("SPECTRUM_MAX_WAITING_REQUESTS", "9")
    assert ServiceSettings.load().max_waiting_requests == 9
    monkeypatch.delenv("SPECTRUM_MAX_WAITING_REQUESTS")
    monkeypatch.setenv("SPECTRUM_MAX_LISTENERS", "many")
    with pytest.raises(SettingsError, match="SPECTRUM_MAX_LISTENERS"):
        ServiceSettings.load()


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


SECRET = "whsec_" + 32 * "A"


@pytest.mark.parametrize(
    "secret",
    [None, "", "secret", "whsec_", "whsec_secret", "whsec_" + 28 * "A", "whsec_" + 88 * "A", SECRET.replace("w", "W")],
)
def test_webhooks_need_a_secret(monkeypatch: pytest.MonkeyPatch, secret: str | None) -> None:
    monkeypatch.setenv("SPECTRUM_WEBHOOK_HOSTS", "lab.example.org")
    if secret is not None:
        monkeypatch.setenv("SPECTRUM_WEBHOOK_SECRET", secret)
    with pytest.raises(SettingsError, match=r"^SPECTRUM_WEBHOOK_SECRET: .*(is required|must be whsec_)") as caught:
        ServiceSettings.load()
    assert not secret or secret == "whsec_" or secret not in str(caught.value)


def test_a_secret_is_replaced_by_having_two_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    other = SECRET.replace("A", "B")
    monkeypatch.setenv("SPECTRUM_WEBHOOK_SECRET", f"{other}, {SECRET}")
    assert ServiceSettings.load().webhook_secrets == [other, SECRET]
    monkeypatch.setenv("SPECTRUM_WEBHOOK_SECRET", f"{SECRET},whsec_secret")
    with pytest.raises(SettingsError, match=r"^SPECTRUM_WEBHOOK_SECRET: .*must be whsec_"):
        ServiceSettings.load()


def test_webhooks_go_to_listed_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ServiceSettings.load().webhook_receivers == frozenset()
    monkeypatch.setenv("SPECTRUM_WEBHOOK_HOSTS", "lab.example.org, 10.0.0.5:8080")
    monkeypatch.setenv("SPECTRUM_WEBHOOK_SECRET", SECRET)
    settings = ServiceSettings.load()
    assert "10.0.0.5:8080" in settings.webhook_receivers
    assert SECRET not in repr(settings)
    WorkerSettings.load()
    monkeypatch.setenv("SPECTRUM_WEBHOOK_HOSTS", "https://lab.example.org/")
    with pytest.raises(SettingsError, match=r"^SPECTRUM_WEBHOOK_HOSTS: "):
        ServiceSettings.load()


def test_the_password_is_not_printed() -> None:
    assert ":secret@" not in repr(ServiceSettings.load())


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
