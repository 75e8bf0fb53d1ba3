#!/usr/bin/env bash
# curvlinops 3.0.1: with CrossEntropyLoss(ignore_index=-100), reduction "mean", and batches in which unequal numbers
# of targets are ignored, matrices are not those of the mean loss over all targets that count: batches are weighted
# by their rows instead of their targets that count. The same samples in one batch give another matrix. For
# Linear(2, 3), 8 samples in two batches of 4 with 1 and 4 targets that count, relative to the Hessian in one batch, which is
# right to 1e-15:
#   HessianLinearOperator and GGNLinearOperator are off by 0.36.
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
from curvlinops import GGNLinearOperator, HessianLinearOperator
from torch import nn
from torch.func import functional_call

torch.manual_seed(0)
torch.set_default_dtype(torch.float64)
network, criterion = nn.Linear(2, 3), nn.CrossEntropyLoss(ignore_index=-100)
x, y = torch.randn(8, 2), torch.tensor([1, -100, -100, -100, 0, 2, 1, 0])
parameters = list(network.parameters())
sizes = [each.numel() for each in parameters]
point = torch.cat([each.detach().flatten() for each in parameters])


def loss(vector):
    weight, bias = vector.split(sizes)
    return criterion(functional_call(network, {"weight": weight.view(3, 2), "bias": bias}, (x,)), y)


right = torch.autograd.functional.hessian(loss, point)  # linear in the parameters: the Gauss-Newton matrix as well
errors = []
for batches in ([(x, y)], [(x[:4], y[:4]), (x[4:], y[4:])]):
    for kind in (HessianLinearOperator, GGNLinearOperator):
        found = kind(network, criterion, parameters, batches) @ torch.eye(len(point))
        errors.append(float((found - right).norm() / right.norm()))
print(f"torch {torch.__version__}: one batch {errors[0]:.1g}, {errors[1]:.1g}")
print(f"two batches {errors[2]:.3g}, {errors[3]:.3g}")
same = max(errors[:2]) < 1e-12 and min(errors[2:]) > 0.1
print("as described" if same else "no longer as described")
sys.exit(0 if same else 1)
PYTHON
