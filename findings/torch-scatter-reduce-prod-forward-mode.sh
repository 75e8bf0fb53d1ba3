#!/usr/bin/env bash
# PyTorch 2.13.0 (CPU): forward mode takes the derivative of scatter_reduce(..., "prod") as zero, without an error,
# and so the Hessian by forward over reverse, torch.func.jacfwd(grad), is wrong, too. For f(x) = (x_0 x_1)^2 + x_2^2
# at (1, 2, 3), written with one torch.ones(2).scatter_reduce(0, [0, 0, 1], x, "prod") in float64:
#   gradient: forward (0, 0, 0), reverse (8, 4, 6), which is right;
#   Hessian: forward over reverse ((-8, 0, 0), (0, -2, 0), (0, 0, -2)),
#   double backward ((8, 8, 0), (8, 2, 0), (0, 0, 2)), which is right.
# Exits with 0 while this is the case, and with 1 when it changes. Needs Python 3.11 or newer and pip.
set -euo pipefail
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
"${PYTHON:-python3}" -m venv "$directory/env"
"$directory/env/bin/pip" install -q --disable-pip-version-check torch==2.13.0 numpy==2.4.6
"$directory/env/bin/python" - <<'PYTHON'
import sys

import torch
from torch.func import grad, jacfwd

torch.set_default_dtype(torch.float64)
groups = torch.tensor([0, 0, 1])


def function(x):
    return torch.ones(2).scatter_reduce(0, groups, x, "prod").square().sum()


x = torch.tensor([1.0, 2.0, 3.0])
mixed, double = jacfwd(grad(function))(x), torch.autograd.functional.hessian(function, x)
forward, reverse = jacfwd(function)(x), grad(function)(x)
print(f"torch {torch.__version__}: forward over reverse {mixed.tolist()}, double backward {double.tolist()}")
print(f"gradients: forward {forward.tolist()}, reverse {reverse.tolist()}")
right = torch.tensor([[8.0, 8.0, 0.0], [8.0, 2.0, 0.0], [0.0, 0.0, 2.0]])
same = torch.equal(double, right) and torch.equal(mixed, torch.diag(torch.tensor([-8.0, -2.0, -2.0])))
same = same and not forward.any() and torch.equal(reverse, torch.tensor([8.0, 4.0, 6.0]))
print("as described" if same else "no longer as described")
sys.exit(0 if same else 1)
PYTHON
