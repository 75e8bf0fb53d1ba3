#!/usr/bin/env bash
# PyTorch 2.13.0 (CPU): reverse mode treats the row padding_idx of an embedding as a constant, forward mode as a
# parameter like others. The two disagree on first derivatives, and the Hessian by forward over reverse
# (torch.func.jacfwd(grad)) is not symmetric, without an error. For the sum over two tokens of exp(row), table
# (0, 0.5), tokens (0, 1), padding_idx 0:
#   gradient: reverse (0, 1.649), forward (1, 1.649);
#   Hessian of the square of that sum: forward over reverse ((0, 0), (3.297, 14.171)),
#   double backward ((0, 0), (0, 14.171)).
# Exits with 0 while this is the case, and with 1 when it changes. Needs Python 3.11 or newer and pip.
set -euo pipefail
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
"${PYTHON:-python3}" -m venv "$directory/env"
"$directory/env/bin/pip" install -q --disable-pip-version-check torch==2.13.0 numpy==2.4.6
"$directory/env/bin/python" - <<'PYTHON'
import sys

import torch
from torch.func import grad, jacfwd
from torch.nn.functional import embedding

torch.set_default_dtype(torch.float64)
tokens = torch.tensor([0, 1])


def total(rows):
    return embedding(tokens, rows.view(2, 1), padding_idx=0).exp().sum()


def squared(rows):
    return total(rows) ** 2


table = torch.tensor([0.0, 0.5])
reverse, forward = grad(total)(table), jacfwd(total)(table)
mixed, double = jacfwd(grad(squared))(table), torch.autograd.functional.hessian(squared, table)
print(f"torch {torch.__version__}: gradient reverse {reverse.tolist()}, forward {forward.tolist()}")
print(f"Hessian: forward over reverse {mixed.tolist()}, double backward {double.tolist()}")
same = reverse[0] == 0 and forward[0] == 1 and not mixed.any(1)[0] and mixed[1, 0] > 3 and not double[1, 0]
print("as described" if same else "no longer as described")
sys.exit(0 if same else 1)
PYTHON
