"""`python -m tests.chaos.fuzz`: schemathesis over the whole OpenAPI document of a running server."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from benchmarks.environment import server_environment, server_line
from benchmarks.stack import RunningStack

CONFIGURATION = Path(__file__).with_name("schemathesis.toml")
_EXAMPLES_PER_ROUND = 100
"""Of each operation, in phases that have no natural end; examples and boundary values are tried in the first round."""


@dataclass
class Findings:
    """What schemathesis generated and found."""

    num_cases: int = 0
    num_operations: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    texts: list[str] = field(default_factory=list)


def fuzz(url: str, num_examples: int, seed: int, *, directory: Path, phases: str = "") -> Findings:
    """One run of schemathesis, all checks on; `num_examples` of each operation at most in each phase that draws."""
    report = directory / f"report-{seed}.json"
    command = [str(Path(sys.executable).with_name("schemathesis")), "--config-file", str(CONFIGURATION), "run"]
    command += [f"{url}/openapi.json", "--seed", str(seed), "--max-examples", str(num_examples), "--no-shrink"]
    command += ["--report", "json", "--report-json-path", str(report), *(["--phases", phases] if phases else [])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")])}
    run = subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    if not report.exists():
        raise RuntimeError(f"schemathesis did not run: {run.stdout[-2000:]}{run.stderr[-2000:]}")
    found = json.loads(report.read_text())
    failures = Counter({each["title"]: each["count"] for each in [*found["failures"], *found["errors"]]})
    texts = [run.stdout] if failures else []
    return Findings(found["test_cases"]["generated"], found["operations"]["tested"], failures, texts)


def campaign(url: str, num_cases: int, seed: int, *, directory: Path) -> Findings:
    """Runs with one seed after the other until there were so many cases."""
    found = fuzz(url, 20, seed, directory=directory)
    while found.num_cases < num_cases:
        seed += 1
        more = fuzz(url, _EXAMPLES_PER_ROUND, seed, directory=directory, phases="fuzzing,stateful")
        found.num_cases += more.num_cases
        found.failures += more.failures
        found.texts += more.texts
        print(f"{found.num_cases} cases, {found.failures.total()} failures", file=sys.stderr, flush=True)
    return found


def main() -> None:
    """Print the report; exit with 1 if anything was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="spectrum-fuzz-") as temporary:
        directory = Path(temporary)
        # what is asked for at random takes a minute at most
        with RunningStack(directory / "data", num_workers=1, SPECTRUM_JOB_SECONDS="60") as stack:
            found = campaign(stack.url, arguments.cases, arguments.seed, directory=directory)
            alive = stack.pids("-m hessian_spectrum.service")
        server_errors = stack.log.read_text().count('"status": 500')
    print("\n".join(found.texts), file=sys.stderr)
    rows = {
        "machine": server_line(server_environment()),
        "schemathesis, seed": f"{version('schemathesis')}, {arguments.seed}",
        "operations": str(found.num_operations),
        "cases": str(found.num_cases),
        "server errors in the log": str(server_errors),
        "failures of checks": ", ".join(f"{count} {title}" for title, count in found.failures.items()) or "0",
    }
    print("\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())]))
    sys.exit(1 if found.failures or server_errors or not alive else 0)


if __name__ == "__main__":
    main()
