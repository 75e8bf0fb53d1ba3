"""Settings of every process, read from `SPECTRUM_...` variables when it starts."""

import os
from ipaddress import ip_network
from pathlib import Path
from typing import Self
from urllib.parse import parse_qsl, urlencode, urlsplit

from pydantic import Field, FilePath, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import SettingsConfigDict

from hessian_spectrum.telemetry.logging import LogSettings

PREFIX = "SPECTRUM_"
_OF_THE_CLIENT = ("URL", "API_KEY")
_OF_COMPOSE = (
    *("PORT", "BIND", "REDIS_PASSWORD", "REDIS_MAXMEMORY", "TORCH_BACKEND", "MODELS"),
    *("SERVICE_MEMORY", "WORKER_MEMORY", "REDIS_MEMORY"),
)
OTHER_VARIABLES = frozenset(PREFIX + name for name in _OF_THE_CLIENT + _OF_COMPOSE)
"""Read by the client and by the compose files, so no mistake in the environment of a process."""


_CERTIFICATES = {
    "ssl_ca_certs": "redis_ca_file",
    "ssl_certfile": "redis_certificate_file",
    "ssl_keyfile": "redis_key_file",
}


class SettingsError(Exception):
    """A variable that the process cannot start with."""


class StorageSettings(LogSettings):
    """Where jobs and results live."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True)

    redis_ca_file: FilePath | None = Field(
        default=None, description="that signed Redis' certificate; none: the system's"
    )
    redis_certificate_file: FilePath | None = Field(default=None, description="of this process, where Redis wants one")
    redis_key_file: FilePath | None = Field(default=None, description="of that certificate, if it does not hold it")
    redis_url: SecretStr = Field(
        description="redis://, rediss:// or unix:// with user and password; with the files above"
    )
    results_dir: Path = Field(description="directory of the results, shared by service and workers")
    models_dir: Path | None = Field(default=None, description="directory of checkpoints; none: no request may name one")
    lease_seconds: float = Field(default=15.0, ge=1.0, description="a worker silent for so long has lost its job")
    max_attempts: int = Field(
        default=3, ge=1, description="a job that lost so many workers fails; those that gave it back do not count"
    )
    republish_seconds: float = Field(default=30.0, ge=1.0, description="a queued job without message is sent again")
    job_seconds: float = Field(
        default=7 * 86400.0, gt=0, description="that one job may run in all; a request may ask for less"
    )

    @property
    def artifacts_dir(self) -> Path:
        """Of uploaded files: a part of the results' directory, so that whoever shares one shares both."""
        return self.results_dir / "artifacts"

    @property
    def artifact_owners_dir(self) -> Path:
        """Of whose they are."""
        return self.results_dir / "artifact-owners"

    @property
    def requests_dir(self) -> Path:
        """Of large requests of jobs that have not ended."""
        return self.results_dir / "requests"

    @property
    def checkpoints_dir(self) -> Path:
        """Of what jobs have done so far: a part of the results' directory, so that any worker can go on."""
        return self.results_dir / "job-checkpoints"

    @field_validator("redis_url")
    @classmethod
    def _known_scheme(cls, url: SecretStr) -> SecretStr:
        if not url.get_secret_value().startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("must begin with redis://, rediss:// or unix://")
        return url

    @field_validator("redis_url")
    @classmethod
    def _with_certificates(cls, url: SecretStr, info: ValidationInfo) -> SecretStr:
        """As redis and kombu both read it: files in the query, and a certificate that is verified."""
        files = {parameter: info.data.get(field) for parameter, field in _CERTIFICATES.items()}
        parts = urlsplit(url.get_secret_value())
        given = dict(parse_qsl(parts.query))
        if any(name.startswith("ssl_") for name in given):
            raise ValueError(
                "takes no ssl_ parameters; name files of certificates by SPECTRUM_REDIS_CA_FILE and its like"
            )
        if parts.scheme != "rediss":
            if any(files.values()):
                raise ValueError("must begin with rediss:// where files of certificates are given")
            return url
        query = {"ssl_cert_reqs": "required", "ssl_check_hostname": "true"}
        query |= {parameter: str(path) for parameter, path in files.items() if path}
        return SecretStr(parts._replace(query=urlencode(query | given)).geturl())

    @field_validator("models_dir")
    @classmethod
    def _is_directory(cls, path: Path | None) -> Path | None:
        if path is not None and not path.is_dir():
            raise ValueError("must be a directory")
        return path

    @classmethod
    def load(cls) -> Self:
        """The settings of this process from its environment.

        Raises:
            SettingsError: Naming the variable that is missing, unknown or unfit; never its value.
        """
        unknown = sorted(name for name in os.environ if name.startswith(PREFIX) and name not in _known_variables())
        if unknown:
            raise SettingsError(f"unknown variable {', '.join(unknown)}")
        try:
            return cls()  # type: ignore[call-arg]
        except ValidationError as error:
            faults = [f"{PREFIX}{str(e['loc'][0]).upper()}: {e['msg']}" for e in error.errors(include_input=False)]
            raise SettingsError("; ".join(faults)) from None


class ServiceSettings(StorageSettings):
    """Settings of the HTTP service."""

    max_body_bytes: int = Field(default=16 * 2**20, ge=1024, description="larger request bodies are refused")
    max_upload_bytes: int = Field(default=512 * 2**20, ge=1024, description="larger uploads of arrays are refused")
    upload_memory_bytes: int = Field(default=2**30, ge=1024, description="that uploads and copies of them take at once")
    keys_file: Path | None = Field(default=None, description="of the API keys; none: keys.json beside the results")
    insecure: bool = Field(default=False, description="without keys, also where others can connect")
    allowed_hosts: str = Field(
        default="", description="names, separated by commas, under which it answers besides its addresses; *: any"
    )
    trusted_proxies: str = Field(
        default="",
        description="addresses or networks, separated by commas, whose X-Forwarded-For and -Proto are believed",
    )
    requests_per_minute: int = Field(default=1200, ge=1, description="of an address without a key")
    max_requests: int = Field(default=128, ge=1, description="that are answered at once")
    max_listeners: int = Field(default=512, ge=0, description="that wait besides: long polls and event streams")
    heavy_requests: int = Field(
        default_factory=lambda: max(2, min(4, os.cpu_count() or 1)),
        ge=2,
        description="pictures, large requests and the like that are worked on at once, all but one of them for one key",
    )
    heavy_seconds: float = Field(default=120.0, gt=0, description="that one of these may take")
    max_queued: int = Field(default=10_000, ge=1, description="jobs that wait at a time")
    requests_bytes: int = Field(
        default=2 * 2**30, ge=0, description="of the requests of jobs that have not ended, a quarter of it for one key"
    )
    records_bytes: int = Field(default=2**30, ge=0, description="of the records of jobs, a quarter of it for one key")
    result_seconds: float = Field(default=30 * 86400.0, gt=0, description="that a result is kept after its job ended")
    record_seconds: float = Field(
        default=30 * 86400.0, gt=0, description="that the record of a job is kept which has no result, or none any more"
    )
    results_bytes: int | None = Field(
        default=None, ge=0, description="of all results: the oldest go first; default: half of the disk that holds them"
    )
    uploads_bytes: int | None = Field(
        default=None,
        ge=0,
        description="of all uploaded files, three quarters of it for one key; default: a quarter of the disk",
    )
    max_artifacts: int = Field(default=10_000, ge=0, description="uploaded files of one key")
    reap_seconds: float = Field(default=2.0, ge=0.1, description="pause between looks for lost jobs")

    @field_validator("trusted_proxies")
    @classmethod
    def _are_networks(cls, text: str) -> str:
        networks = [ip_network(part.strip()) for part in text.split(",") if part.strip()]
        return ",".join(str(network) for network in networks)

    @property
    def keys_path(self) -> Path:
        """Of the API keys."""
        return self.keys_file or self.results_dir.parent / "keys.json"

    @property
    def host_names(self) -> list[str]:
        """The allowed hosts, apart."""
        return [name for part in self.allowed_hosts.split(",") if (name := part.strip())]


class WorkerSettings(StorageSettings):
    """Settings of a worker."""

    device: str = Field(
        default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto: a GPU where there is one"
    )
    concurrency: int = Field(default=1, ge=1, description="jobs at once; 1 on a GPU")
    num_threads: int | None = Field(default=None, ge=1, description="CPU threads of one job; default: a fair share")
    niceness: int = Field(
        default=10, ge=0, le=20, description="of what computes; 20: only while nobody else wants the core"
    )
    checkpoint_seconds: float = Field(default=30.0, ge=0.1, description="of work that a job may lose with its worker")
    memory_bytes: int | None = Field(default=None, ge=2**20, description="that one job may take; default: a fair share")


def _known_variables() -> frozenset[str]:
    fields = {*ServiceSettings.model_fields, *WorkerSettings.model_fields}
    return frozenset(PREFIX + name.upper() for name in fields) | OTHER_VARIABLES
