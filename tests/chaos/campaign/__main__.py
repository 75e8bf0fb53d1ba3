"""`python -m tests.chaos.campaign`: disturb a busy server, then count what was lost, wrong, double or left."""

import argparse
import sys
import tempfile
from pathlib import Path

from tests.chaos.campaign.campaign import run_campaign
from tests.chaos.campaign.faults import MIXED, REDIS, drawn


def main() -> None:
    """Print the report; exit with 1 if a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.campaign", description=__doc__)
    parser.add_argument("--cycles", type=int, default=20, help="faults, one after the other")
    parser.add_argument("--seed", type=int, default=0, help="of the faults and of the customers' choices")
    parser.add_argument("--faults", choices=["mixed", "redis"], default="mixed")
    parser.add_argument("--min-jobs", type=int, default=0, help="go on after the last fault until so many have ended")
    parser.add_argument("--directory", type=Path, help="for data and log, kept; without it a temporary one")
    arguments = parser.parse_args()
    faults = drawn(MIXED if arguments.faults == "mixed" else REDIS, arguments.cycles, arguments.seed)
    with tempfile.TemporaryDirectory(prefix="spectrum-campaign-") as temporary:
        directory = arguments.directory or Path(temporary)
        directory.mkdir(parents=True, exist_ok=True)
        report = run_campaign(directory, faults, arguments.seed, min_jobs=arguments.min_jobs)
    print(report.table())
    sys.exit(0 if report.is_clean else 1)


if __name__ == "__main__":
    main()
