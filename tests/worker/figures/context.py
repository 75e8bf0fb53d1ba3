"""What measurements are computed with in tests."""

import torch

from hessian_spectrum.worker.figures.measurement import Context
from hessian_spectrum.worker.hardware import Hardware

CONTEXT = Context(hardware=Hardware(torch.device("cpu"), 1, 2**31))
