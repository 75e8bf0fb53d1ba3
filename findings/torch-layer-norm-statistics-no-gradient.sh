#!/usr/bin/env bash
# PyTorch 2.13.0 (CPU): torch.ops.aten.native_layer_norm returns the normalised rows, the mean and 1 / the standard
# deviation of each row. The last two are functions of the input, but forward mode gives them derivatives of zero,
# without an error; reverse mode raises "does not require grad". With the row x = (1, 2, 4) in float64, by jacfwd:
#   derivative of the mean: (0, 0, 0), correct: (1/3, 1/3, 1/3);
#   derivative of 1 / the standard deviation: (0, 0, 0), correct: (0.229, 0.057, -0.286).
# Exits with 0 while this is the case, and with 1 when it changes. Needs Python 3.11 or newer and pip.
set -euo pipefail
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
"${PYTHON:-python3}" -m venv "$directory/env"
"$directory/env/bin/pip" install -q --disable-pip-version-check torch==2.13.0 numpy==2.4.6
"$directory/env/bin/python" - <<'PYTHON'
import sys

import torch
from torch.func import jacfwd

torch.set_default_dtype(torch.float64)
x = torch.tensor([1.0, 2.0, 4.0])


def statistics(x):
    _, mean, deviation = torch.ops.aten.native_layer_norm(x.view(1, 3), [3], None, None, 1e-5)
    return torch.stack([mean.sum(), deviation.sum()])


def written_out(x):
    return torch.stack([x.mean(), (x.var(correction=0) + 1e-5).rsqrt()])


def refuses():
    try:
        torch.autograd.grad(statistics(x.clone().requires_grad_()).sum(), x)
    except RuntimeError as error:
        return "does not require grad" in str(error)
    return False


found, right = jacfwd(statistics)(x), jacfwd(written_out)(x)
print(f"torch {torch.__version__}: forward {found.tolist()}, correct is {right.tolist()}; reverse raises: {refuses()}")
same = torch.allclose(statistics(x), written_out(x)) and not found.any() and bool(right.all()) and refuses()
print("as described" if same else "no longer as described")
sys.exit(0 if same else 1)
PYTHON
