#!/usr/bin/env bash
# PyTorch 2.13.0 (CPU): a torch.autograd.Function with a jvp of its own loses derivatives where forward mode is nested
# in forward mode. The operations inside its jvp are not differentiated by the outer transform: the second derivative
# by torch.func.jvp of jvp is 0, without an error. Forward over reverse and reverse over forward are right. Hence
# jacfwd(jacfwd(f)) is 0 for functions that hold all their curvature in such an operation.
# For x -> x^3 at x = 2 in float64, with jvp 3 x^2 dx and generate_vmap_rule:
#   jvp 12 (right); jvp of jvp 0 (right: 12); jvp of grad 12; grad of jvp 12; jacfwd of jacfwd 0.
# Exits with 0 while this is the case, and with 1 when it changes. Needs Python 3.11 or newer and pip.
set -euo pipefail
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
"${PYTHON:-python3}" -m venv "$directory/env"
"$directory/env/bin/pip" install -q --disable-pip-version-check torch==2.13.0 numpy==2.4.6
"$directory/env/bin/python" - <<'PYTHON'
import sys

import torch
from torch.autograd import Function
from torch.func import grad, jacfwd, jvp

torch.set_default_dtype(torch.float64)


class Cube(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x**3

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_forward(*inputs)
        ctx.save_for_backward(*inputs)

    @staticmethod
    def jvp(ctx, dx):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * dx

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * gradient


def forward(function):
    return lambda x: jvp(function, (x,), (torch.ones_like(x),))[1]


cube, x = (lambda x: Cube.apply(x)), torch.tensor(2.0)
found = {
    "jvp": forward(cube)(x),
    "jvp of jvp": forward(forward(cube))(x),
    "jvp of grad": forward(grad(cube))(x),
    "grad of jvp": grad(forward(cube))(x),
    "jacfwd of jacfwd": jacfwd(jacfwd(cube))(x),
    "jvp of jvp, without a function of its own": forward(forward(lambda x: x**3))(x),
}
for name, value in found.items():
    print(f"{name}: {float(value):g}")
wrong = {name for name, value in found.items() if float(value) != 12}
same = wrong == {"jvp of jvp", "jacfwd of jacfwd"} and all(float(found[name]) == 0 for name in wrong)
print("as described" if same else "no longer as described")
sys.exit(0 if same else 1)
PYTHON
