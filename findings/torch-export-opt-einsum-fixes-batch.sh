#!/usr/bin/env bash
# PyTorch 2.13.0 with opt_einsum 3.4.0 installed beside it (jax and curvature libraries bring it along): torch.export
# with Dim.AUTO silently fixes the number of samples of a network that calls torch.einsum with three operands. The search
# for the best order of contraction compares numbers of operations, and each comparison turns the symbolic size into
# that of the example. Without opt_einsum, or with torch.backends.opt_einsum.flags(enabled=False) around the export, the
# same network keeps a symbolic size. Two operands are not affected.
# Seen for einsum("bi,bj,ijk->bk", x, x, core) exported with 4 samples, by the shape of x in the exported graph:
#   opt_einsum enabled (the default): (4, 3); disabled: (s77, 3); two operands, enabled: (s77, 3).
# Exits with 0 while this is the case, and with 1 when it changes. Needs Python 3.11 or newer and pip.
set -euo pipefail
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
"${PYTHON:-python3}" -m venv "$directory/env"
"$directory/env/bin/pip" install -q --disable-pip-version-check torch==2.13.0 numpy==2.4.6 opt_einsum==3.4.0
"$directory/env/bin/python" - <<'PYTHON'
import sys

import torch
from torch import nn
from torch.backends import opt_einsum
from torch.export import Dim, export
from torch.fx.experimental.symbolic_shapes import is_concrete_int


class Cubic(nn.Module):
    def __init__(self):
        super().__init__()
        self.core = nn.Parameter(torch.randn(3, 3, 4))

    def forward(self, x):
        return torch.einsum("bi,bj,ijk->bk", x, x, self.core)


class Linear(Cubic):
    def forward(self, x):
        return torch.einsum("bi,ijk->bjk", x, self.core)


def shape_of_input(module):
    program = export(module, (torch.randn(4, 3),), dynamic_shapes=({0: Dim.AUTO},))
    (name,) = program.graph_signature.user_inputs
    return next(node.meta["val"].shape for node in program.graph.nodes if node.name == name)


with_search, two_operands = shape_of_input(Cubic()), shape_of_input(Linear())
with opt_einsum.flags(enabled=False):
    without = shape_of_input(Cubic())
print(f"three operands {tuple(with_search)}, without the search {tuple(without)}, two operands {tuple(two_operands)}")
fixed = [is_concrete_int(shape[0]) for shape in (with_search, without, two_operands)]
same = opt_einsum.is_available() and fixed == [True, False, False]
print("as described" if same else "no longer as described")
sys.exit(0 if same else 1)
PYTHON
