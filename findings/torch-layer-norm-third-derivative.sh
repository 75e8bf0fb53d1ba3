#!/usr/bin/env bash
# PyTorch 2.13.0 (CPU): third derivatives of torch.nn.functional.layer_norm, and of batch_norm with the statistics of
# the batch, are wrong, in reverse mode alone, too, without an error. First and second derivatives by reverse mode are
# right. The formula of the double backward pass reads mean and 1 / standard deviation as saved numbers, and does not
# differentiate them. The gradient of a loss that holds second derivatives with respect to the inputs, as a
# physics-informed network's does, is such a derivative.
# For f(x) = sum(w norm(x)^3) of 4 numbers in float64, epsilon 0.1; largest deviation from the same norm written with
# mean and square root, on which three forward and three reverse passes agree to 6e-16:
#   layer_norm: first 2e-16, second 3e-16, third 1.2; batch_norm: first 1e-15, second 1e-15, third 1.2;
#   the largest entry of the right third derivative is 1.1.
# Exits with 0 while this is the case, and with 1 when it changes. Needs Python 3.11 or newer and pip.
set -euo pipefail
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
"${PYTHON:-python3}" -m venv "$directory/env"
"$directory/env/bin/pip" install -q --disable-pip-version-check torch==2.13.0 numpy==2.4.6
"$directory/env/bin/python" - <<'PYTHON'
import sys

import torch
from torch.autograd.functional import jacobian
from torch.nn.functional import batch_norm, layer_norm

torch.set_default_dtype(torch.float64)
torch.manual_seed(0)
x, w = torch.randn(4), torch.randn(4)


def written_out(x):
    centred = x - x.mean()
    return centred / (centred.square().mean() + 0.1).sqrt()


def derivative(function, order):
    """Derivatives of this order of sum(w f(x)^3), each by one reverse pass over the one before."""

    def nested(point):
        return (w * function(point) ** 3).sum()

    for _ in range(order):
        nested = (lambda inner: lambda point: jacobian(inner, point, create_graph=True))(nested)
    return nested(x.clone().requires_grad_()).detach()


norms = {
    "layer_norm": lambda point: layer_norm(point, (4,), eps=0.1),
    "batch_norm": lambda point: batch_norm(point[:, None], None, None, training=True, eps=0.1)[:, 0],
}
right = {order: derivative(written_out, order) for order in (1, 2, 3)}
forward = torch.func.jacfwd(torch.func.jacfwd(torch.func.jacfwd(lambda point: (w * written_out(point) ** 3).sum())))(x)
same = float((forward - right[3]).abs().max()) < 1e-13
print(f"written out: largest third derivative {float(right[3].abs().max()):.2g}, forward against reverse {same}")
for name, function in norms.items():
    errors = [float((derivative(function, order) - truth).abs().max()) for order, truth in right.items()]
    print(name, *(f"{each:.2g}" for each in errors))
    same = same and max(errors[:2]) < 1e-13 and errors[2] > 0.1
print("as described" if same else "no longer as described")
sys.exit(0 if same else 1)
PYTHON
