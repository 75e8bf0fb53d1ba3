#!/usr/bin/env bash
# PyTorch 2.13.0: torch.export.export with Dim.AUTO for the batch fixes it to the example's number of samples,
# without an error or a warning, where the module says len(x); where it says x.shape[0], the same module has a batch
# of any size. With an example of 4 samples, the exported program raises for 5: "Guard failed: x.size()[0] == 4".
# Exits with 0 while this is the case, and with 1 when it changes. Needs Python 3.11 or newer and pip.
set -euo pipefail
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
"${PYTHON:-python3}" -m venv "$directory/env"
"$directory/env/bin/pip" install -q --disable-pip-version-check torch==2.13.0 numpy==2.4.6
"$directory/env/bin/python" - <<'PYTHON'
import sys
import warnings

import torch
from torch import nn


class ByLen(nn.Module):
    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 3))

    def forward(self, x):
        return x + self.token.expand(len(x), 3)


class ByShape(ByLen):
    def forward(self, x):
        return x + self.token.expand(x.shape[0], 3)


def outcome(module):
    """Warnings at export, and what the program does with five samples."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        shapes = ({0: torch.export.Dim.AUTO},)
        program = torch.export.export(module, (torch.zeros(4, 3),), dynamic_shapes=shapes)
    texts = [str(each.message) for each in seen if "deprecated" not in str(each.message)]
    try:
        return texts, tuple(program.module()(torch.zeros(5, 3)).shape)
    except AssertionError as error:
        return texts, str(error).splitlines()[0]


by_len, by_shape = outcome(ByLen()), outcome(ByShape())
print(f"torch {torch.__version__}: len(x): {by_len}; x.shape[0]: {by_shape}")
same = by_shape == ([], (5, 3)) and not by_len[0] and "x.size()[0] == 4" in by_len[1]
print("as described" if same else "no longer as described")
sys.exit(0 if same else 1)
PYTHON
