#!/usr/bin/env bash
# PyTorch 2.13.0 (CPU): forward mode of torch.cholesky_inverse gives a wrong first derivative, without an error, unless
# the factor is diagonal; reverse mode is right on the triangle that is read. The Hessian of a function with it is wrong
# by forward over reverse, which torch.func.hessian takes, and right by double backward. For the factor
# L = ((2, 0), (1, 3)) in float64:
#   derivative of (L L^T)^-1 along L[0, 0], by jvp: ((-0.309, 0), (0, 0.0123));
#   by jvp of torch.linalg.inv(L L^T), central differences and reverse mode: ((-0.278, 0.0278), (0.0278, 0));
#   derivative of trace(A^-1) with respect to A[0, 0] by forward mode through cholesky and cholesky_inverse, A = L L^T:
#   -0.0818; correct: -0.0802;
#   Hessian of |(L L^T)^-1|^2 by torch.func.hessian: off by 0.156 of its norm; by double backward: right to 3e-16.
# Exits with 0 while this is the case, and with 1 when it changes. Needs Python 3.11 or newer and pip.
set -euo pipefail
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
"${PYTHON:-python3}" -m venv "$directory/env"
"$directory/env/bin/pip" install -q --disable-pip-version-check torch==2.13.0 numpy==2.4.6
"$directory/env/bin/python" - <<'PYTHON'
import sys

import torch
from torch.func import grad, hessian, jacrev, jvp

torch.set_default_dtype(torch.float64)
factor = torch.tensor([[2.0, 0.0], [1.0, 3.0]])
corner = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
step = 1e-6
found = jvp(torch.cholesky_inverse, (factor,), (corner,))[1]
plain = jvp(lambda L: torch.linalg.inv(L @ L.mT), (factor,), (corner,))[1]
reverse = jacrev(torch.cholesky_inverse)(factor)[:, :, 0, 0]
above, below = (torch.cholesky_inverse(factor + sign * step * corner) for sign in (1, -1))
differences = (above - below) / (2 * step)
print(f"torch {torch.__version__}, derivative along L[0, 0]: jvp {found.tolist()}, of inv {plain.tolist()},")
print(f"reverse {reverse.tolist()}, central differences {differences.tolist()}")

matrix = factor @ factor.mT


def trace(A):
    return torch.cholesky_inverse(torch.linalg.cholesky(A)).trace()


def plain_trace(A):
    return torch.linalg.inv((A + A.mT) / 2).trace()


forward = [float(jvp(each, (matrix,), (corner,))[1]) for each in (trace, plain_trace)]
backward = float(grad(trace)(matrix)[0, 0])
print(f"trace along A[0, 0]: forward {forward[0]:.4g}, reverse {backward:.4g}, of inv {forward[1]:.4g}")


def of_factor(L, inverse):
    """A function of the lower triangle."""
    return inverse(L.tril()).square().sum()


by_cholesky = lambda L: of_factor(L, torch.cholesky_inverse)
by_inverse = lambda L: of_factor(L, lambda each: torch.linalg.inv(each @ each.mT))
right = hessian(by_inverse)(factor)
errors = [float((each - right).norm() / right.norm()) for each in
          (hessian(by_cholesky)(factor), torch.autograd.functional.hessian(by_cholesky, factor))]
print(f"Hessian of |(L L^T)^-1|^2: error of torch.func.hessian {errors[0]:.3g}, of double backward {errors[1]:.1g}")
same = all(torch.allclose(each, plain, atol=1e-8) for each in (reverse, differences))
same &= float((found - plain).abs().max()) > 0.02
same &= abs(backward - forward[1]) < 1e-12 and abs(forward[0] - forward[1]) > 1e-3
same &= errors[0] > 0.01 and errors[1] < 1e-12
print("as described" if same else "no longer as described")
sys.exit(0 if same else 1)
PYTHON
