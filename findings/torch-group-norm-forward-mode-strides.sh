#!/usr/bin/env bash
# PyTorch 2.13.0 (CPU): forward mode of group_norm fails for inputs whose channels are not the first axis in memory, as
# those with memory_format=torch.channels_last or after permute. The forward pass and double backward accept them; the
# formula for forward mode views the input, so jvp, jvp of vjp and hessian raise a RuntimeError ("view size is not
# compatible with input tensor's size and stride"). layer_norm, batch_norm and instance_norm accept both orders.
# Seen for x of shape (2, 4, 3, 3) with 2 groups: contiguous input, jvp right; channels last, RuntimeError.
# Exits with 0 while this is the case, and with 1 when it changes. Needs Python 3.11 or newer and pip.
set -euo pipefail
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
"${PYTHON:-python3}" -m venv "$directory/env"
"$directory/env/bin/pip" install -q --disable-pip-version-check torch==2.13.0 numpy==2.4.6
"$directory/env/bin/python" - <<'PYTHON'
import sys

import torch
import torch.nn.functional as F
from torch.func import jvp

torch.manual_seed(0)
torch.set_default_dtype(torch.float64)
x, v = torch.randn(2, 2, 4, 3, 3)
weight = torch.rand(4)
NORMS = {
    "group_norm": lambda x: F.group_norm(x, 2, weight, weight),
    "layer_norm": lambda x: F.layer_norm(x, (4, 3, 3)),
    "batch_norm": lambda x: F.batch_norm(x, weight, weight, weight, weight),
    "instance_norm": lambda x: F.instance_norm(x),
}


def derivative(norm, point):
    """The tangent along v, or the error."""
    try:
        return jvp(norm, (point,), (v,))[1]
    except RuntimeError as error:
        return str(error).splitlines()[0]


same = True
for name, norm in NORMS.items():
    expected = derivative(norm, x)
    found = derivative(norm, x.contiguous(memory_format=torch.channels_last))
    fails = isinstance(found, str)
    print(f"torch {torch.__version__}, {name}, channels last:", found if fails else "as for contiguous input")
    if name == "group_norm":
        same = same and fails and "view size is not compatible" in found
        step = 1e-6 * v
        differences = (norm(x + step) - norm(x - step)) / 2e-6
        same = same and torch.allclose(expected, differences, atol=1e-7)
    else:
        same = same and not fails and torch.allclose(found, expected)
print("as described" if same else "no longer as described")
sys.exit(0 if same else 1)
PYTHON
