"""Settings of each process, read from `SPECTRUM_...` variables when it starts.

All processes of a deployment may get the same environment: each accepts the variables of the others, and refuses those
that no process knows. So the classes of all processes are in this file.
"""

import base64
import os
from ipaddress import ip_network
from pathlib import Path
from typing import Self
from urllib.parse import parse_qsl, urlencode, urlsplit

from pydantic import AliasChoices, Field, FilePath, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import SettingsConfigDict

from hessian_spectrum.jobs.receivers import listed_receivers
from hessian_spectrum.telemetry.logging import LogSettings

PREFIX = "SPECTRUM_"
_CLIENT_VARIABLES = ("CONFIG", "URL", "API_KEY")
_COMPOSE_VARIABLES = (
    *("PORT", "BIND", "REDIS_PASSWORD", "REDIS_MAXMEMORY", "TORCH_BACKEND", "MODELS"),
    *("SERVICE_MEMORY", "WORKER_MEMORY", "REDIS_MEMORY"),
)
OTHER_VARIABLES = frozenset(PREFIX + name for name in _CLIENT_VARIABLES + _COMPOSE_VARIABLES)
"""Variables that the client and the compose files read; the environment of a process may hold them."""


_CERTIFICATES = {
    "ssl_ca_certs": "redis_ca_file",
    "ssl_certfile": "redis_certificate_file",
    "ssl_keyfile": "redis_key_file",
}


class SettingsError(Exception):
    """A variable with which the process cannot start."""


class StorageSettings(LogSettings):
    """Settings of Redis and of the results directory, common to service and worker."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, populate_by_name=True)

    redis_ca_file: FilePath | None = Field(
        default=None,
        description="File of the authorities that sign the certificate of Redis; default: those of the system.",
    )
    redis_certificate_file: FilePath | None = Field(
        default=None, description="File of the client certificate of this process, if Redis requires one."
    )
    redis_key_file: FilePath | None = Field(
        default=None, description="File of the key of the client certificate, if its file does not hold it."
    )
    redis_url: SecretStr = Field(description="URL of Redis: redis://, rediss:// or unix://, with user and password.")
    results_dir: Path = Field(description="Directory of the results, which service and workers share.")
    storage_url: str | None = Field(
        default=None,
        pattern=r"^s3://[a-z0-9][a-z0-9.-]+(/[A-Za-z0-9._-]+)*/?$",
        description="URL s3://BUCKET/PREFIX of an object store that keeps all files in place of the results directory, "
        "in which each machine then keeps only what it has under way; default: the directory keeps them.",
    )
    models_dir: Path | None = Field(
        default=None, description="Directory of model checkpoints; default: no request may name a checkpoint."
    )
    lease_seconds: float = Field(
        default=15.0, ge=1.0, description="Time without a renewal after which a worker loses its job."
    )
    max_attempts: int = Field(
        default=3,
        ge=1,
        description="Number of workers that a job may lose before it fails; a worker that stops is not lost.",
    )
    republish_seconds: float = Field(
        default=30.0, ge=1.0, description="Time after which a queued job whose message is missing is published again."
    )
    job_seconds: float = Field(
        default=7 * 86400.0,
        gt=0,
        description="Run time of one job over all attempts; a request may set a shorter limit.",
    )

    @property
    def artifacts_dir(self) -> Path:
        """Directory of uploaded files, inside the results directory so that both are shared."""
        return self.results_dir / "artifacts"

    @property
    def checkpoints_dir(self) -> Path:
        """Directory of job checkpoints, inside the results directory so that any worker can resume a job."""
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
        """Add the certificate files to the URL, in the form that both redis and kombu read."""
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
        """Read the settings of this process from its environment.

        Returns:
            The settings.

        Raises:
            SettingsError: A variable is missing, unknown or invalid; the message names it, but not its value.
        """
        unknown = sorted(name for name in os.environ if name.startswith(PREFIX) and name not in _known_variables())
        if unknown:
            raise SettingsError(f"unknown variable {', '.join(unknown)}")
        try:
            return cls()  # type: ignore[call-arg]
        except ValidationError as error:
            faults = [f"{cls._variable(str(e['loc'][0]))}: {e['msg']}" for e in error.errors(include_input=False)]
            raise SettingsError("; ".join(faults)) from None

    @classmethod
    def _variable(cls, location: str) -> str:
        """Name the variable that an error is about.

        Args:
            location: Name of the field, or the standard name of its variable where it has several.

        Returns:
            Its name, as the environment spells it where several are accepted.
        """
        for name, field in cls.model_fields.items():
            variables = _variables(name, field)
            if location in (name, *variables):
                return next((variable for variable in variables if variable in os.environ), variables[0])
        return PREFIX + location.upper()


class ServiceSettings(StorageSettings):
    """Settings of the HTTP service."""

    max_body_bytes: int = Field(default=16 * 2**20, ge=1024, description="Largest size of a request body.")
    max_upload_bytes: int = Field(default=512 * 2**20, ge=1024, description="Largest size of an uploaded file.")
    upload_memory_bytes: int = Field(
        default=2**30, ge=1024, description="Memory of all uploads that are being received, copies included."
    )
    keys_file: Path | None = Field(
        default=None, description="File of the API keys; default: keys.json beside the results directory."
    )
    insecure: bool = Field(
        default=False, description="Whether the service starts without API keys even if other machines can connect."
    )
    allowed_hosts: str = Field(
        default="",
        description="Host names, separated by commas, to which the service answers besides its addresses; *: any.",
    )
    allowed_origins: str = Field(
        default="",
        description="Origins of other sites, separated by commas, whose pages may use the API, as in "
        "https://lab.example.org.",
    )
    trusted_proxies: str = Field(
        default="",
        description="Addresses or networks, separated by commas, whose X-Forwarded-For and -Proto are trusted.",
    )
    requests_per_minute: int = Field(
        default=1200, ge=1, description="Requests per minute from one address without an API key."
    )
    max_requests: int = Field(default=128, ge=1, description="Number of concurrent requests.")
    max_waiting_requests: int = Field(
        default=512,
        ge=0,
        validation_alias=AliasChoices(f"{PREFIX}MAX_WAITING_REQUESTS", f"{PREFIX}MAX_LISTENERS"),
        description="Number of further requests that wait for jobs: long polls and event streams.",
    )
    heavy_requests: int = Field(
        default_factory=lambda: max(2, min(4, os.cpu_count() or 1)),
        ge=2,
        description="Number of concurrent CPU-bound requests, such as plots; one key gets all but one.",
    )
    heavy_seconds: float = Field(default=120.0, gt=0, description="Time limit of one CPU-bound request.")
    max_queued: int = Field(default=10_000, ge=1, description="Number of queued jobs.")
    requests_bytes: int = Field(
        default=2 * 2**30,
        ge=0,
        description="Bytes of the requests of jobs that have not ended; one key gets a quarter.",
    )
    records_bytes: int = Field(
        default=2**30, ge=0, description="Bytes of the records of all jobs; one key gets a quarter."
    )
    result_seconds: float = Field(
        default=30 * 86400.0, gt=0, description="Time for which a result is kept after its job has ended."
    )
    record_seconds: float = Field(
        default=30 * 86400.0, gt=0, description="Time for which the record of a job without a result is kept."
    )
    results_bytes: int | None = Field(
        default=None,
        ge=0,
        description="Bytes of all results and of points kept for reuse, of which the oldest are deleted, points "
        "before results; default: half of their disk.",
    )
    uploads_bytes: int | None = Field(
        default=None,
        ge=0,
        description="Bytes of all uploaded files; one key gets three quarters; default: a quarter of their disk.",
    )
    max_artifacts: int = Field(default=10_000, ge=0, description="Number of uploaded files of one key.")
    reap_seconds: float = Field(default=2.0, ge=0.1, description="Pause between searches for lost jobs.")
    webhook_hosts: str = Field(
        default="",
        description="Hosts, separated by commas, each with a port or for the standard ports, to which messages about "
        "ended jobs may be sent; default: none.",
    )
    webhook_secret: SecretStr | None = Field(
        default=None,
        validate_default=True,
        description="Secret with which these messages are signed: whsec_ and 24 to 64 bytes in base64; several, "
        "separated by commas, sign each message together.",
    )

    @field_validator("trusted_proxies")
    @classmethod
    def _are_networks(cls, text: str) -> str:
        networks = [ip_network(part.strip()) for part in text.split(",") if part.strip()]
        return ",".join(str(network) for network in networks)

    @field_validator("webhook_hosts")
    @classmethod
    def _are_hosts(cls, text: str) -> str:
        listed_receivers(text)
        return text

    @field_validator("webhook_secret")
    @classmethod
    def _is_secret(cls, secret: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if secret is None:
            if info.data.get("webhook_hosts"):
                raise ValueError("is required where SPECTRUM_WEBHOOK_HOSTS is set")
            return None
        secrets = _listed(secret.get_secret_value())
        if not secrets or not all(map(_is_webhook_secret, secrets)):
            raise ValueError("must be whsec_ and 24 to 64 bytes in base64, or several of these separated by commas")
        return secret

    @property
    def webhook_secrets(self) -> list[str]:
        """The secrets with which messages about ended jobs are signed."""
        return [] if self.webhook_secret is None else _listed(self.webhook_secret.get_secret_value())

    @property
    def webhook_receivers(self) -> frozenset[str]:
        """The receivers to which messages may be sent."""
        return listed_receivers(self.webhook_hosts)

    @property
    def keys_path(self) -> Path:
        """File of the API keys."""
        return self.keys_file or self.results_dir.parent / "keys.json"

    @property
    def host_names(self) -> list[str]:
        """The allowed host names as a list."""
        return _listed(self.allowed_hosts)

    @property
    def origins(self) -> list[str]:
        """The allowed origins as a list."""
        return _listed(self.allowed_origins)


class WorkerSettings(StorageSettings):
    """Settings of a worker."""

    device: str = Field(
        default="auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description="Device to compute on; auto: a GPU if there is one.",
    )
    concurrency: int = Field(default=1, ge=1, description="Number of concurrent jobs; use 1 on a GPU.")
    num_threads: int | None = Field(
        default=None, ge=1, description="CPU threads of one job; default: a fair share of the cores."
    )
    niceness: int = Field(
        default=10,
        ge=0,
        le=20,
        description="Niceness of the processes that compute; 20: they run only while a core is idle.",
    )
    checkpoint_seconds: float = Field(
        default=30.0, ge=0.1, description="Pause between checkpoints: the work that a job may lose with its worker."
    )
    memory_bytes: int | None = Field(
        default=None, ge=2**20, description="Memory of one job; default: a fair share of the machine."
    )


def _known_variables() -> frozenset[str]:
    fields = ServiceSettings.model_fields | WorkerSettings.model_fields
    names = (name for field_name, field in fields.items() for name in _variables(field_name, field))
    return OTHER_VARIABLES.union(names)


def _is_webhook_secret(secret: str) -> bool:
    prefix, _, encoded = secret.partition("_")
    try:
        return prefix == "whsec" and 24 <= len(base64.b64decode(encoded, validate=True)) <= 64
    except ValueError:
        return False


def _listed(text: str) -> list[str]:
    return [name for part in text.split(",") if (name := part.strip())]


def _variables(name: str, field: FieldInfo) -> list[str]:
    """The variables that set a field: the standard name first, then older names, which keep working."""
    if isinstance(field.validation_alias, AliasChoices):
        return [str(choice) for choice in field.validation_alias.choices]
    return [PREFIX + name.upper()]
