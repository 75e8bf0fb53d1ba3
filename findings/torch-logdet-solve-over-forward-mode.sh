#!/usr/bin/env bash
# PyTorch 2.13.0 (CPU): second derivatives of torch.linalg.det, slogdet, solve and torch.logdet are wrong, without an
# error, where a derivative by forward mode is differentiated again, in forward or reverse mode. The formula of forward
# mode takes the LU factors as constants, so the term with the derivative of A^-1 is missing. Both first derivatives,
# double backward and forward over reverse (torch.func.hessian) are right. For A(x) = ((x, 1), (1, 3)) at x = 2:
#   logdet A          reverse over forward, forward over forward: 0;         correct: -0.36;
#   b . A^-1 b        with b = (1, 2), the same two ways:         0.024;     correct: 0.048;
#   the first derivative of logdet A as tr(A^-1 dA / dx), by torch.linalg.inv, differentiated in either mode: -0.36.
# A Hessian product that is taken as the gradient of a directional derivative, for example of the likelihood of a
# Gaussian process, lacks this term.
# Exits with 0 while this is the case, and with 1 when it changes. Needs Python 3.11 or newer and pip.
set -euo pipefail
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
"${PYTHON:-python3}" -m venv "$directory/env"
"$directory/env/bin/pip" install -q --disable-pip-version-check torch==2.13.0 numpy==2.4.6
"$directory/env/bin/python" - <<'PYTHON'
import sys

import torch
from torch.func import grad, jvp

torch.set_default_dtype(torch.float64)
b = torch.tensor([1.0, 2.0])


def matrix(x):
    return torch.stack([torch.stack([x, torch.ones(())]), torch.tensor([1.0, 3.0])])


def forward(function):
    """The derivative by forward mode."""
    return lambda x: jvp(function, (x,), (torch.ones_like(x),))[1]


def written_out(x):
    """The derivative of logdet A, tr(A^-1 dA / dx)."""
    return torch.linalg.inv(matrix(x))[0, 0]


FUNCTIONS = {
    "logdet": lambda x: torch.logdet(matrix(x)),
    "slogdet": lambda x: torch.linalg.slogdet(matrix(x))[1],
    "log of det": lambda x: torch.linalg.det(matrix(x)).log(),
    "solve": lambda x: b @ torch.linalg.solve(matrix(x), b),
}
x = torch.tensor(2.0)
# log(3 x - 1) and (3 - 4 + 4 x) / (3 x - 1) = (4 x - 1) / (3 x - 1)
CORRECT = {name: -9 / 25 for name in FUNCTIONS} | {"solve": 6 / 125}
same = True
for name, function in FUNCTIONS.items():
    right = [grad(grad(function))(x), forward(grad(function))(x)]
    wrong = [grad(forward(function))(x), forward(forward(function))(x)]
    print(f"{name}: correct {CORRECT[name]:.6g}; double backward {right[0]:.6g}, forward over reverse {right[1]:.6g}, "
          f"reverse over forward {wrong[0]:.6g}, forward over forward {wrong[1]:.6g}")
    same &= all(abs(each - CORRECT[name]) < 1e-12 for each in right)
    same &= all(abs(each - CORRECT[name]) > 0.01 for each in wrong)
    same &= abs(forward(function)(x) - grad(function)(x)) < 1e-12
print(f"torch {torch.__version__}, written out with inv: {grad(written_out)(x):.6g}, {forward(written_out)(x):.6g}")
same &= abs(grad(written_out)(x) + 9 / 25) < 1e-12 and abs(forward(written_out)(x) + 9 / 25) < 1e-12
print("as described" if same else "no longer as described")
sys.exit(0 if same else 1)
PYTHON
