#!/usr/bin/env bash
# curvlinops 3.0.1 with PyTorch 2.13.0: the HessianLinearOperator of a network with nn.LayerNorm is wrong, and not
# even symmetric, without an error. It takes a forward mode product of torch.func.jacrev, as torch.func.hessian does,
# which is off by as much. For Linear(2, 3), LayerNorm(3), Tanh, Linear(3, 1), mean squared error and 8 samples in
# float64, relative to the Hessian by double backward, with which central differences of gradients agree (error in
# Frobenius norm):
#   curvlinops 0.087 (its asymmetry |A - A^T| / |A| is 0.12), torch.func.hessian 0.087.
# Without the layer norm both are right to 1e-15.
# Exits with 0 while this is the case, and with 1 when it changes. Needs Python 3.11 or newer and pip.
set -euo pipefail
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
"${PYTHON:-python3}" -m venv "$directory/env"
"$directory/env/bin/pip" install -q --disable-pip-version-check \
  torch==2.13.0 numpy==2.4.6 torchvision==0.28.0 curvlinops-for-pytorch==3.0.1
"$directory/env/bin/python" - <<'PYTHON'
import sys

import torch
from curvlinops import HessianLinearOperator
from torch import nn
from torch.func import functional_call, hessian

torch.manual_seed(0)
torch.set_default_dtype(torch.float64)

def hessian_of(gradient, point, step=1e-5):
    """The Hessian by central differences of gradients."""
    steps = step * torch.eye(point.numel(), dtype=point.dtype)
    return torch.stack([(gradient(point + each) - gradient(point - each)) / (2 * step) for each in steps])


def errors(network):
    """Errors of curvlinops, of torch.func.hessian and of differences, and the asymmetry of curvlinops."""
    x, y, criterion = torch.randn(8, 2), torch.randn(8, 1), nn.MSELoss()
    named = dict(network.named_parameters())
    sizes = [each.numel() for each in named.values()]
    point = torch.cat([each.detach().flatten() for each in named.values()])

    def loss(vector):
        parts = zip(named.items(), vector.split(sizes))
        return criterion(functional_call(network, {name: part.view_as(own) for (name, own), part in parts}, (x,)), y)

    right = torch.autograd.functional.hessian(loss, point)
    operator = HessianLinearOperator(network, criterion, list(named.values()), [(x, y)])
    found = operator @ torch.eye(len(point))
    others = [found, hessian(loss)(point), hessian_of(torch.func.grad(loss), point)]
    asymmetry = float((found - found.T).norm() / found.norm())
    return [float((each - right).norm() / right.norm()) for each in others], asymmetry


layers = [nn.Linear(2, 3), nn.LayerNorm(3), nn.Tanh(), nn.Linear(3, 1)]
(peer, func, differences), asymmetry = errors(nn.Sequential(*layers))
(plain_peer, plain_func, _), _ = errors(nn.Sequential(layers[0], *layers[2:]))
print(f"torch {torch.__version__}, with layer norm: curvlinops {peer:.3g}, asymmetry {asymmetry:.3g}")
print(f"torch.func.hessian {func:.3g}")
print(f"differences of gradients {differences:.1g}; without layer norm {plain_peer:.1g}, {plain_func:.1g}")
same = min(peer, func, asymmetry) > 0.01 and differences < 1e-6 and max(plain_peer, plain_func) < 1e-12
print("as described" if same else "no longer as described")
sys.exit(0 if same else 1)
PYTHON
