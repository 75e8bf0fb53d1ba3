"""Checks of everything that a deployment needs, made where the service runs."""

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import redis
from redis.exceptions import RedisError, ResponseError

from hessian_spectrum.jobs.connection import (
    KEEPS_ALL,
    SOCKET_TIMEOUT_SECONDS,
    described,
    eviction_policy,
    fault_of,
)
from hessian_spectrum.jobs.fingerprints import protocol_version
from hessian_spectrum.jobs.settings import StorageSettings
from hessian_spectrum.jobs.storage_identity import MEND, StorageIdentity
from hessian_spectrum.jobs.worker_registry import registered_workers
from hessian_spectrum.service.telemetry.readiness import missing_models, missing_on_disk
from hessian_spectrum.storage.local_directory import LEAST_FREE_BYTES
from hessian_spectrum.storage.stores import open_stores

Verdict = Literal["ok", "warning", "failed", "skipped"]

_PACKAGES = ("fastapi", "uvicorn", "pydantic", "redis", "celery", "kombu", "numpy")
_OLDEST_PYTHON = (3, 11)
_LITTLE_FREE_BYTES = 5 * 2**30
_SLOW_SYNC_SECONDS = 0.1
_SLOW_WRITE_SECONDS = 0.3
"""Duration of a durable write above which a warning is due; with `everysec` one of several takes longer."""

_MOST_SKEW_SECONDS = 1.0
_KEY = "spectrum:doctor"
_TORCH = """
import json, torch
names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
print(json.dumps([torch.__version__, names]))
"""
_TORCH_SECONDS = 120.0


@dataclass(frozen=True)
class Finding:
    """The outcome of a check, with advice."""

    name: str
    verdict: Verdict
    found: str
    advice: str = ""


def python() -> Iterator[Finding]:
    """Check the versions of Python and of the packages."""
    here = sys.version.split()[0]
    advice = "" if sys.version_info[:2] >= _OLDEST_PYTHON else "install Python 3.11 or newer"
    yield Finding("Python", "failed" if advice else "ok", here, advice)
    try:
        yield Finding("packages", "ok", ", ".join(f"{name} {version(name)}" for name in _PACKAGES))
    except PackageNotFoundError as error:
        yield Finding("packages", "failed", f"{error.name} is missing", "install this project with its dependencies")


def torch() -> Iterator[Finding]:
    """Check torch and its GPUs in a separate process, as the service never loads torch."""
    command = [sys.executable, "-P", "-c", _TORCH]
    try:
        finished = subprocess.run(command, capture_output=True, text=True, timeout=_TORCH_SECONDS, check=False)  # noqa: S603
    except subprocess.TimeoutExpired:
        yield Finding("torch", "failed", f"not loaded after {_TORCH_SECONDS:.0f} s", "look at the disk and the driver")
        return
    if finished.returncode == 0:
        torch_version, gpus = json.loads(finished.stdout)
        yield Finding("torch", "ok", f"{torch_version}, {', '.join(gpus) or 'no GPU seen: workers use the CPU'}")
    elif "No module named 'torch'" in finished.stderr:
        yield Finding("torch", "skipped", "not installed here; workers need it, the service's container has none")
    else:
        last = finished.stderr.strip().rpartition("\n")[2]
        yield Finding("torch", "failed", last[:200], "install torch again, for this machine's driver")


def redis_server(client: redis.Redis) -> Iterator[Finding]:
    """Check that Redis answers, that its writes are durable, and that it deletes nothing when it is full."""
    try:
        hello = client.execute_command("HELLO")  # type: ignore[no-untyped-call]
        client.set(_KEY, "1", ex=60)
        client.eval("return redis.call('XADD', KEYS[1], 'MAXLEN', 1, '*', 'a', 'b')", 1, f"{_KEY}:stream")
    except RedisError as error:
        advice = "start it; check SPECTRUM_REDIS_URL, the password and what its user may do"
        is_standing = fault_of(error) in ("full", "disk", "loading")
        found, advice = (described(error), "see docs/deployment.md") if is_standing else (str(error), advice)
        yield Finding("Redis", "failed", found[:200], advice)
        return
    finally:
        _forget(client)
    fields = hello if isinstance(hello, dict) else dict(zip(hello[::2], hello[1::2], strict=True))
    yield Finding("Redis", "ok", f"{fields.get('server', 'redis')} {fields.get('version', '')}")
    yield _durability(client)
    yield _eviction(client)
    yield from _configuration(client)


def _forget(client: redis.Redis) -> None:
    try:
        client.delete(_KEY, f"{_KEY}:stream")
    except RedisError:
        return


_DISK_WAIT_MILLISECONDS = round(750 * SOCKET_TIMEOUT_SECONDS)
"""Shorter than the time after which the connection itself gives up."""

_NO_FILE = Finding("Redis on disk", "failed", "appendonly is off: jobs are lost", "set appendonly yes")


def _durability(client: redis.Redis) -> Finding:
    """Measure how soon Redis has a write on disk, which needs no access to its configuration."""
    slowest = 0.0
    try:
        for _ in range(4):
            client.set(_KEY, "1", ex=60)
            started_at = time.monotonic()
            num_synced, _ = client.execute_command("WAITAOF", 1, 0, _DISK_WAIT_MILLISECONDS)  # type: ignore[no-untyped-call]
            slowest = max(slowest, time.monotonic() - started_at)
            if not num_synced:
                late = f"a write was not on disk after {_DISK_WAIT_MILLISECONDS / 1e3:g} s"
                return Finding("Redis on disk", "failed", late, "see docs/deployment.md")
    except ResponseError as error:
        if "appendonly" in str(error):
            return _NO_FILE
        return _reported_durability(client)
    finally:
        _forget(client)
    if slowest > _SLOW_WRITE_SECONDS:
        advice = "set appendfsync always, or use a faster disk"
        return Finding("Redis on disk", "warning", f"a write takes up to {slowest:.2f} s to the disk", advice)
    return Finding("Redis on disk", "ok", f"writes are on disk within {1e3 * slowest:.0f} ms")


def _eviction(client: redis.Redis) -> Finding:
    """Check that a full Redis refuses writes instead of deleting jobs."""
    name = "Redis maxmemory-policy"
    try:
        policy = eviction_policy(client)
    except RedisError as error:
        return Finding(name, "skipped", described(error))
    if policy is None:
        advice = f"see as an administrator that it is {KEEPS_ALL}, or let this user ask (+info)"
        return Finding(name, "skipped", "this user may not read it", advice)
    good = policy == KEEPS_ALL
    found = policy if good else f"{policy}: jobs are deleted when it is full"
    return Finding(name, "ok" if good else "failed", found, "" if good else f"set maxmemory-policy {KEEPS_ALL}")


def _reported_durability(client: redis.Redis) -> Finding:
    """Read the state of the append-only file from INFO, since Redis before 7.2 has no WAITAOF."""
    try:
        reported = client.info("persistence")
    except RedisError:
        found = "unknown: only Redis 7.2 and newer report it to this user"
        return Finding("Redis on disk", "skipped", found, "check its configuration: docs/deployment.md")
    if not reported["aof_enabled"]:
        return _NO_FILE
    if reported["aof_last_write_status"] != "ok":
        return Finding("Redis on disk", "failed", "the last write to its file failed", "see its log; free some space")
    return Finding(
        "Redis on disk", "ok", "appendonly is on; Redis 7.2 and newer also report how fast writes are on disk"
    )


def _configuration(client: redis.Redis) -> Iterator[Finding]:
    expected = {"appendonly": "yes", "appendfsync": "always"}
    try:
        configured = {name: client.config_get(name).get(name) for name in expected}
    except RedisError:
        yield Finding("Redis' rights", "ok", "this user may not configure it")
        return
    advice = "let service and workers be a user that may not; docs/deployment.md has its rights"
    yield Finding("Redis' rights", "warning", "this user may configure it, and read all of it", advice)
    for name, value in expected.items():
        good = configured[name] == value
        yield Finding(
            f"Redis {name}", "ok" if good else "failed", str(configured[name]), "" if good else f"set {value}"
        )


def identity(client: redis.Redis, settings: StorageSettings) -> Iterator[Finding]:
    """Check that the results directory and Redis belong together; otherwise nothing is deleted."""
    name = "identity"
    if not settings.results_dir.is_dir():
        yield Finding(name, "skipped", "the directory of results is not there")
        return
    stores = open_stores(settings.results_dir, settings.storage_url)
    storage = StorageIdentity(client, stores.results, stores.checkpoints)
    try:
        fault = storage.difference()
    except (RedisError, OSError) as error:
        yield Finding(name, "skipped", f"it cannot be read: {error}"[:200])
        return
    if fault:
        yield Finding(name, "failed", f"{fault} Nothing is deleted until this is corrected.", MEND)
    else:
        yield Finding(name, "ok", "the directory of results and Redis belong together")


def clocks(client: redis.Redis) -> Iterator[Finding]:
    """Compare the clocks of this machine and of the workers with that of Redis, which times the leases."""
    try:
        seconds, microseconds = client.time()
        skews = {"this machine": time.time() - seconds - microseconds / 1e6}
        skews |= {w.name: w.clock_skew_seconds for w in registered_workers(client) if w.clock_skew_seconds is not None}
    except RedisError:
        yield Finding("clocks", "skipped", "Redis does not answer")
        return
    name = max(skews, key=lambda each: abs(skews[each]))
    good = abs(skews[name]) < _MOST_SKEW_SECONDS
    found = f"within {abs(skews[name]):.2f} s of that of Redis" if good else f"{name}: {skews[name]:+.1f} s"
    yield Finding("clocks", "ok" if good else "warning", found, "" if good else "let NTP set the clocks")


def workers(client: redis.Redis) -> Iterator[Finding]:
    """Check that a worker is present and that all run the same code as the service."""
    try:
        present = registered_workers(client)
    except RedisError:
        yield Finding("workers", "skipped", "Redis does not answer")
        return
    if not present:
        yield Finding("workers", "failed", "no worker is present: jobs wait", "start one; look at its log")
        return
    named = ", ".join(f"{worker.name} ({worker.device}, {worker.concurrency} at once)" for worker in present)
    yield Finding("workers", "ok", named)
    for worker in present:
        if worker.fault:
            yield Finding(
                f"worker {worker.name}", "failed", f"it takes no jobs: {worker.fault}", "correct its settings"
            )
    strange = [worker.name for worker in present if worker.source_version != protocol_version()]
    versions = {worker.code_version for worker in present}
    if strange:
        found = f"different code than here: {', '.join(strange)}"
        yield Finding("versions", "warning", found, "upgrade all machines together, and restart what still runs")
    elif len(versions) > 1:
        found = "workers differ in their code or libraries: results are not shared between them"
        yield Finding("versions", "warning", found, "upgrade all machines together")
    else:
        yield Finding("versions", "ok", "service and workers run the same code")


def directories(settings: StorageSettings) -> Iterator[Finding]:
    """Check the directories of results and of models."""
    results = settings.results_dir
    missing = missing_on_disk(results)
    if missing:
        yield Finding("results", "failed", missing[0], f"make {results} writable for uid {os.getuid()}, or free space")
    else:
        yield Finding("results", "ok", str(results))
        yield _free_space(results)
        yield _sync(results)
        yield _one_file_system(results, [settings.artifacts_dir, settings.checkpoints_dir])
    if settings.storage_url is not None:
        yield _object_store(results, settings.storage_url)
    models = settings.models_dir
    if models is None:
        yield Finding("models", "skipped", "no models directory is set")
    elif missing_models(models):
        yield Finding("models", "failed", f"{models} cannot be read", f"let uid {os.getuid()} read it")
    else:
        yield Finding("models", "ok", f"{models}: {sum(1 for path in models.iterdir() if path.is_dir())} directories")


def _object_store(directory: Path, url: str) -> Finding:
    """Check that the object store refuses to overwrite, which concurrent writers rely on."""
    blobs, name = open_stores(directory, url).blobs, f"doctor-{secrets.token_hex(8)}"
    try:
        try:
            refused = blobs.put(name, b"first") and not blobs.put(name, b"second")
            kept = blobs.read(name)
        finally:
            blobs.delete(name)
    except OSError as error:
        advice = "look at SPECTRUM_STORAGE_URL and the variables of AWS"
        return Finding("object store", "failed", str(error)[:200], advice)
    if not refused or kept != b"first":
        found, advice = (
            "it overwrites existing objects",
            "use an object store that supports If-None-Match for PutObject",
        )
        return Finding("object store", "failed", found, advice)
    return Finding("object store", "ok", url)


def _free_space(results: Path) -> Finding:
    free = shutil.disk_usage(results).free
    verdict: Verdict = "failed" if free < LEAST_FREE_BYTES else "warning" if free < _LITTLE_FREE_BYTES else "ok"
    return Finding(
        "free space", verdict, f"{free / 2**30:.1f} GiB", "" if verdict == "ok" else "free some, or delete jobs"
    )


def _sync(results: Path) -> Finding:
    started_at = time.monotonic()
    try:
        with tempfile.TemporaryFile(dir=results) as file:
            file.write(b"1")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return Finding("sync", "failed", str(error.strerror), "results need a file system that can sync")
    seconds = time.monotonic() - started_at
    slow = seconds > _SLOW_SYNC_SECONDS
    return Finding("sync", "warning" if slow else "ok", f"{1e3 * seconds:.0f} ms", "use a faster disk" if slow else "")


def _one_file_system(results: Path, parts: list[Path]) -> Finding:
    elsewhere = [str(path) for path in parts if path.exists() and path.stat().st_dev != results.stat().st_dev]
    if elsewhere:
        return Finding("file system", "failed", f"{', '.join(elsewhere)} on another", "one file system must hold all")
    return Finding("file system", "ok", "one holds results, checkpoints and uploads")
