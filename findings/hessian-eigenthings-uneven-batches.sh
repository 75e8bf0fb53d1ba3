#!/usr/bin/env bash
# hessian-eigenthings 1.0.0a5: over a data loader whose last batch is smaller, which is what a DataLoader yields by
# default, HessianOperator returns the mean of the batches' Hessians, so that samples of the small batch count more.
# It is not the Hessian of the mean loss, and depends on the batch size. For Linear(2, 3), cross-entropy and 9
# samples, relative to the Hessian of the mean over all samples:
#   batches of 3, or one of 9: 1e-15 and less; batches of 8 and 1: 0.31.
# Exits with 0 while this is the case, and with 1 when it changes. Needs Python 3.11 or newer and pip.
set -euo pipefail
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
"${PYTHON:-python3}" -m venv "$directory/env"
"$directory/env/bin/pip" install -q --disable-pip-version-check torch==2.13.0 numpy==2.4.6 hessian-eigenthings==1.0.0a5
"$directory/env/bin/python" - <<'PYTHON'
import sys

import torch
from hessian_eigenthings import HessianOperator, supervised_loss
from torch import nn
from torch.func import functional_call
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
torch.set_default_dtype(torch.float64)
network, criterion = nn.Linear(2, 3), nn.CrossEntropyLoss()
x, y = torch.randn(9, 2), torch.randint(0, 3, (9,))
sizes = [each.numel() for each in network.parameters()]
point = torch.cat([each.detach().flatten() for each in network.parameters()])


def loss(vector):
    weight, bias = vector.split(sizes)
    return criterion(functional_call(network, {"weight": weight.view(3, 2), "bias": bias}, (x,)), y)


right = torch.autograd.functional.hessian(loss, point)


def error(batch_size):
    loader = DataLoader(TensorDataset(x, y), batch_size=batch_size)
    operator = HessianOperator(network, loader, supervised_loss(criterion))
    found = torch.stack([operator.matvec(vector) for vector in torch.eye(operator.size)], dim=1)
    return float((found - right).norm() / right.norm())


even, whole, uneven = error(3), error(9), error(8)
print(f"torch {torch.__version__}: batches of 3: {even:.1g}, one of 9: {whole:.1g}, of 8 and 1: {uneven:.3g}")
same = max(even, whole) < 1e-12 and uneven > 0.1
print("as described" if same else "no longer as described")
sys.exit(0 if same else 1)
PYTHON
