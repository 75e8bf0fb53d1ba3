#!/usr/bin/env bash
# PyTorch 2.13.0: torch.autograd.grad silently treats the second derivative of a function as zero if the backward of the
# function is marked @once_differentiable. The graph node that should raise "trying to differentiate twice" is not
# connected to the inputs, so it never runs. With x^3 as such a function, at x = 2:
#   sum(x^3 + x^2)      two calls of torch.autograd.grad, and torch.autograd.functional.hessian: 2 (correct: 14);
#   sum((x^3 + x^2)^2)  the same two ways: 176 (correct: 848); only backward() raises, and only in this case.
# The Hessian of a network with such a function, and its products by double backward, may therefore be wrong.
# Exits with 0 while this is the case, and with 1 when it changes. Needs Python 3.11 or newer and pip.
set -euo pipefail
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
"${PYTHON:-python3}" -m venv "$directory/env"
"$directory/env/bin/pip" install -q --disable-pip-version-check torch==2.13.0 numpy==2.4.6
"$directory/env/bin/python" - <<'PYTHON'
import sys

import torch
from torch.autograd.function import once_differentiable


class Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * gradient


def gradient_at(loss, x):
    return torch.autograd.grad(loss(x), x, create_graph=True)[0].sum()


def outcome(loss, point):
    """The second derivative in two ways, and whether backward() raises."""
    x = point.clone().requires_grad_()
    found = [float(torch.autograd.functional.hessian(loss, point)), float(torch.autograd.grad(gradient_at(loss, x), x)[0])]
    try:
        gradient_at(loss, x).backward()
    except RuntimeError as error:
        return found, "differentiate twice" in str(error)
    return found, False


x = torch.tensor([2.0], dtype=torch.float64)
linear = outcome(lambda x: (Cube.apply(x) + x**2).sum(), x)
squared = outcome(lambda x: ((Cube.apply(x) + x**2) ** 2).sum(), x)
print(f"torch {torch.__version__}: sum: {linear}, correct is 14; sum of squares: {squared}, correct is 848")
same = linear == ([2.0, 2.0], False) and squared == ([176.0, 176.0], True)
print("as described" if same else "no longer as described")
sys.exit(0 if same else 1)
PYTHON
