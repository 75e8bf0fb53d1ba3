#!/usr/bin/env bash
# BackPACK 1.7.1 with PyTorch 2.13.0: second derivatives of CrossEntropyLoss(ignore_index=-100) count the targets
# that the loss ignores, without an error; gradients are right. For Linear(2, 3) and 8 samples, 3 of which are
# ignored, compared with the same loss of the 5 others alone, which is the same function of the parameters:
#   DiagHessian and DiagGGNExact differ by 0.144 of the norm; the gradient by 1e-16.
# Exits with 0 while this is the case, and with 1 when it changes. Needs Python 3.11 or newer and pip.
set -euo pipefail
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
"${PYTHON:-python3}" -m venv "$directory/env"
"$directory/env/bin/pip" install -q --disable-pip-version-check \
  torch==2.13.0 numpy==2.4.6 torchvision==0.28.0 backpack-for-pytorch==1.7.1
"$directory/env/bin/python" - <<'PYTHON'
import sys

import torch
from backpack import backpack, extend
from backpack.extensions import DiagGGNExact, DiagHessian
from torch import nn

torch.manual_seed(0)
torch.set_default_dtype(torch.float64)
network, criterion = extend(nn.Linear(2, 3)), extend(nn.CrossEntropyLoss(ignore_index=-100))
x, y = torch.randn(8, 2), torch.tensor([0, 2, -100, 1, -100, -100, 1, 0])


def derivatives(x, y):
    network.zero_grad()
    with backpack(DiagHessian(), DiagGGNExact()):
        criterion(network(x), y).backward()
    names = ("grad", "diag_h", "diag_ggn_exact")
    return [torch.cat([getattr(each, name).flatten() for each in network.parameters()]).clone() for name in names]


counted = y >= 0
pairs = zip(derivatives(x, y), derivatives(x[counted], y[counted]))
gradient, hessian, ggn = (float((found - right).norm() / right.norm()) for found, right in pairs)
print(f"torch {torch.__version__}: gradient {gradient:.1g}, DiagHessian {hessian:.3g}, DiagGGNExact {ggn:.3g}")
same = gradient < 1e-12 and min(hessian, ggn) > 0.1
print("as described" if same else "no longer as described")
sys.exit(0 if same else 1)
PYTHON
