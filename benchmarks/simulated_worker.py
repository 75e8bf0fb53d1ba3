"""`python -m benchmarks.simulated_worker SECONDS`: a worker with a core that this machine does not have.

It is the real worker in all but one respect: a product of a matrix with a vector computes nothing and takes SECONDS,
during which the worker sleeps. The matrix is then diagonal. The first product of a job takes FIRST seconds, in which a
worker would record it. A number of SECONDS that is 0 leaves the worker as it is.
"""

import argparse
import os
import time

import torch
from torch import Tensor

from hessian_spectrum.curvature.operators.risk_operator import RiskOperator
from hessian_spectrum.worker.__main__ import main as run_worker


def simulate(seconds: float, first_seconds: float) -> None:
    """Replace the products of all operators."""

    def sweep(self: RiskOperator, rows: Tensor) -> Tensor:
        is_first = not hasattr(self, "_has_multiplied")
        self._has_multiplied = True  # type: ignore[attr-defined]
        time.sleep(first_seconds if is_first else seconds * len(rows))
        return rows * torch.linspace(0, 1, self.dim, dtype=rows.dtype)

    RiskOperator._sweep = sweep  # type: ignore[method-assign]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("seconds", type=float)
    parser.add_argument("first", type=float)
    parser.add_argument("--core", type=int, help="core of this machine on which the worker runs; default: any")
    arguments = parser.parse_args()
    if arguments.core is not None:
        os.sched_setaffinity(0, [arguments.core])
    if arguments.seconds:
        simulate(arguments.seconds, arguments.first)
    run_worker()


if __name__ == "__main__":
    main()
