#!/usr/bin/env bash
# PyTorch 2.13.0 (CPU): torch.triangular_solve in forward mode lets the triangle take part that it does not read. The
# derivative of x = A^-1 b by torch.func.jvp along that triangle is not zero, although x does not depend on it;
# reverse mode and torch.linalg.solve_triangular are right. For A = ((2, 0), (0.5, 1.5)), b = (1, 2), upper=False
# (float64):
#   derivative of x in the direction of A[0, 1]: (-0.583, 0.194) (correct: 0);
#   column A[0, 1] of the Hessian of |x|^2 by forward over reverse: (0.778, 0, 0.778, -0.605) (correct: 0);
#   column A[1, 0]: (-0.065, 0, 0.259, 1.123) (correct: (0.333, 0, 0.222, 1.037)), so that it is not symmetric.
#   Double backward is right.
# Exits with 0 while this is the case, and with 1 when it changes. Needs Python 3.11 or newer and pip.
set -euo pipefail
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
"${PYTHON:-python3}" -m venv "$directory/env"
"$directory/env/bin/pip" install -q --disable-pip-version-check torch==2.13.0 numpy==2.4.6
"$directory/env/bin/python" - <<'PYTHON'
import sys
import warnings

import torch
from torch.func import grad, jacfwd, jvp

warnings.simplefilter("ignore")  # triangular_solve is deprecated
torch.set_default_dtype(torch.float64)
matrix, b = torch.tensor([[2.0, 0.0], [0.5, 1.5]]), torch.tensor([[1.0], [2.0]])
unread = torch.tensor([[0.0, 1.0], [0.0, 0.0]])


def old(matrix):
    return torch.triangular_solve(b, matrix, upper=False).solution


def new(matrix):
    return torch.linalg.solve_triangular(matrix, b, upper=False)


def outcome(solve):
    """The tangent of the solution along an entry that is not read, and the Hessian in two ways."""

    def loss(entries):
        return solve(entries.view(2, 2)).square().sum()

    tangent = jvp(solve, (matrix,), (unread,))[1].flatten()
    point = matrix.flatten()
    return tangent, jacfwd(grad(loss))(point), torch.autograd.functional.hessian(loss, point)


tangent, mixed, reverse = outcome(old)
right_tangent, right, _ = outcome(new)
print(f"torch {torch.__version__}: tangent {tangent.tolist()}, correct is {right_tangent.tolist()}")
print(f"Hessian, forward over reverse: {mixed.tolist()}, correct is {right.tolist()}")
moved = not torch.equal(old(matrix + unread), old(matrix))
same = not moved and torch.allclose(reverse, right) and not right_tangent.any()
same = same and not torch.allclose(mixed, right, atol=0.1)
print("as described" if same else "no longer as described")
sys.exit(0 if same else 1)
PYTHON
