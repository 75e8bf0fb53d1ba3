"""`python -m hessian_spectrum.service.doctor`: checks a deployment, and says what to do where something is wrong."""

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table

from hessian_spectrum.jobs.connection import connect
from hessian_spectrum.jobs.settings import ServiceSettings, SettingsError
from hessian_spectrum.service.telemetry import deployment_checks, service_checks
from hessian_spectrum.service.telemetry.deployment_checks import Finding

_COLOURS = {"ok": "green", "warning": "yellow", "failed": "red", "skipped": "dim"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print what was found; exit with status 1 if anything failed."""
    parser = argparse.ArgumentParser(prog="spectrum-server doctor", description="Checks a deployment.")
    parser.add_argument("--url", help="of a service: it is asked for a closed form and a small job")
    parser.add_argument("--host", default="127.0.0.1", help="address that a service listens at, or is to")
    parser.add_argument("--port", type=int, help="port that a service listens at, or is to")
    parser.add_argument("--json", action="store_true", help="print findings as JSON")
    wanted = parser.parse_args(arguments)
    findings = list(_findings(wanted.url, wanted.host, wanted.port))
    if wanted.json:
        print(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=2))
    else:
        _print(findings)
    sys.exit(1 if any(finding.verdict == "failed" for finding in findings) else 0)


def _findings(url: str | None, host: str, port: int | None) -> Iterator[Finding]:
    yield from deployment_checks.python()
    yield from deployment_checks.torch()
    try:
        settings = ServiceSettings.load()
    except SettingsError as error:
        yield Finding("settings", "failed", str(error), "docs/deployment.md lists the variables")
    else:
        yield Finding("settings", "ok", "every variable can be read")
        yield from deployment_checks.directories(settings)
        with connect(settings.redis_url.get_secret_value()) as client:
            yield from deployment_checks.redis_server(client)
            yield from deployment_checks.identity(client, settings)
            yield from deployment_checks.clocks(client)
            yield from deployment_checks.workers(client)
    if port is not None:
        yield from service_checks.port(host, port)
    if url is not None:
        yield from service_checks.end_to_end(url)


def _print(findings: Sequence[Finding]) -> None:
    table = Table("", "check", "found", "what to do")
    for finding in findings:
        colour = _COLOURS[finding.verdict]
        table.add_row(f"[{colour}]{finding.verdict}[/]", *map(_plain, (finding.name, finding.found, finding.advice)))
    Console().print(table)


def _plain(text: str) -> str:
    return text.replace("[", "\\[")


if __name__ == "__main__":
    main()
