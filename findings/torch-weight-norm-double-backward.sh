#!/usr/bin/env bash
# PyTorch 2.13.0 (CPU): the second derivative of torch._weight_norm, which
# torch.nn.utils.parametrizations.weight_norm uses, is wrong by double backward, without an error. For w = g v / |v|
# with v = (3, 4), g = 2 and the function w_1 + w_2 (float64):
#   gradient with respect to v: (0.064, -0.048), which is right;
#   Hessian: ((-0.16, -0.048), (-0.064, -0.176)); correct, by g v / |v| written out:
#   ((-0.08704, 0.04928), (0.04928, -0.02496)), and central differences of the operator's own gradient agree.
# So is the Hessian of a network with weight norm; a gradient penalty is trained with wrong gradients.
# Exits with 0 while this is the case, and with 1 when it changes. Needs Python 3.11 or newer and pip.
set -euo pipefail
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
"${PYTHON:-python3}" -m venv "$directory/env"
"$directory/env/bin/pip" install -q --disable-pip-version-check torch==2.13.0 numpy==2.4.6
"$directory/env/bin/python" - <<'PYTHON'
import sys

import torch
from torch import nn

torch.set_default_dtype(torch.float64)

def hessian_of(gradient, point, step=1e-5):
    """The Hessian by central differences of gradients."""
    steps = step * torch.eye(point.numel(), dtype=point.dtype)
    return torch.stack([(gradient(point + each) - gradient(point - each)) / (2 * step) for each in steps])


def parametrized(v):
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(2, 1, bias=False))
    factors = {"original0": torch.full((1, 1), 2.0), "original1": v}
    return torch.func.functional_call(layer.parametrizations.weight, factors, ())


def operator(v):
    return torch._weight_norm(v, torch.full((1, 1), 2.0), 0)


def written_out(v):
    return 2 * v / v.norm(dim=1, keepdim=True)


def gradient(function, point):
    v = point.view(1, 2).clone().requires_grad_()
    return torch.autograd.grad(function(v).sum(), v)[0].flatten()


point = torch.tensor([3.0, 4.0])
by_operator, by_module, right = (
    torch.autograd.functional.hessian(lambda v, function=function: function(v.view(1, 2)).sum(), point)
    for function in (operator, parametrized, written_out)
)
by_differences = hessian_of(lambda point: gradient(operator, point), point)
print(f"torch {torch.__version__}: {by_operator.tolist()}, in the module {by_module.tolist()}")
print(f"correct is {right.tolist()}")
wrong = torch.tensor([[-0.16, -0.048], [-0.064, -0.176]])
agree = torch.allclose(by_differences, right, atol=1e-8) and torch.equal(by_operator, by_module)
same = agree and torch.allclose(by_operator, wrong, atol=1e-12)
print("as described" if same else "no longer as described")
sys.exit(0 if same else 1)
PYTHON
