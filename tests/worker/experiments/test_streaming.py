"""A full-batch spectrum of many images reads them from disk a micro-batch at a time, and never holds all of them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hessian_spectrum.api_schemas.artifacts import CONTEXT
from hessian_spectrum.api_schemas.spectrum import SpectrumRequest
from hessian_spectrum.client.module_export import module_program
from hessian_spectrum.curvature.iteration import ignore_progress
from hessian_spectrum.curvature.operators.self_check import MixedSamplesError
from hessian_spectrum.jobs.plans import plan_job
from hessian_spectrum.service.uploads.memory_budget import MemoryBudget
from hessian_spectrum.service.uploads.npz import archive_members
from hessian_spectrum.service.uploads.pt2 import read_program
from hessian_spectrum.storage.artifact_files import NamedArray
from hessian_spectrum.storage.artifacts import ArtifactStore
from hessian_spectrum.storage.stores import open_stores
from hessian_spectrum.worker.builders import Inputs
from hessian_spectrum.worker.experiments.spectrum import run_spectrum_job
from hessian_spectrum.worker.hardware import Hardware

MIB = 2**20
LIMIT = 120 * MIB
NUM_IMAGES = 100_000
PART_IMAGES = 3500

# in a process of its own, which has a memory record of its own
PROGRAM = """
import ctypes, json, pathlib, sys, torch
from hessian_spectrum.api_schemas.artifacts import CONTEXT
from hessian_spectrum.api_schemas.spectrum import SpectrumRequest
from hessian_spectrum.curvature.iteration import ignore_progress
from hessian_spectrum.storage.stores import open_stores
from hessian_spectrum.worker.builders import Inputs
from hessian_spectrum.worker.experiments.spectrum import run_spectrum_job
from hessian_spectrum.worker.hardware import Hardware

def memory(field):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(field))

store = open_stores(pathlib.Path(sys.argv[1])).artifacts

def run(fields, limit):
    request = SpectrumRequest.model_validate(fields, context={CONTEXT: store})
    return run_spectrum_job(
        request, Hardware(torch.device("cpu"), 1, limit), ignore_progress, inputs=Inputs(artifacts=store)
    ).result

torch.set_num_threads(1)
small, large, limit = json.loads(sys.argv[2]), json.loads(sys.argv[3]), int(sys.argv[4])
run(small, limit)
ctypes.CDLL(None).malloc_trim(0)
before = memory("VmRSS")
open("/proc/self/clear_refs", "w").write("5")
found = run(large, limit)
print(json.dumps([memory("VmHWM") - before, found.provenance.micro_batch_size, found.largest.value]))
"""


class Centred(nn.Module):
    """Takes the mean over samples away: a value of the samples without their axis."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(dim=0)


class Shifted(nn.Module):
    """Gives each sample the outputs of the one before: no shape shows it."""

    def forward(self, x: Tensor) -> Tensor:
        return x.roll(1, 0)


def stored_program(store: ArtifactStore, *last: nn.Module) -> str:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 4, stride=4), nn.Tanh(), nn.Flatten(), nn.Linear(256, 2), *last).eval()
    content = module_program(module, torch.zeros(2, 3, 32, 32))
    with MemoryBudget(2**28).reservation(None) as reservation:
        read = read_program(archive_members(memoryview(content), reservation, max_members=1000))
    return store.write_program(read.program, read.arrays)[0].id


def stored_images(store: ArtifactStore, num_images: int) -> list[str]:
    generator, ids = np.random.default_rng(0), []
    for start in range(0, num_images, PART_IMAGES):
        count = min(PART_IMAGES, num_images - start)
        images = generator.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
        labels = generator.integers(0, 2, count, dtype=np.uint8)
        ids.append(store.write_arrays({"x": NamedArray("U8", images), "y": NamedArray("U8", labels)})[0].id)
    return ids


def request_of(program: str, parts: list[str], **method: Any) -> dict[str, Any]:
    return {
        "kind": "spectrum",
        "model": {"kind": "exported", "program": {"kind": "artifact", "id": program}},
        "data": {"kind": "parts", "parts": parts, "scaling": {"x": {"scale": 1 / 255}}},
        "loss": "cross-entropy",
        "method": {"kind": "lanczos", "num_steps": 2, "num_probes": 1, "num_points": 64} | method,
    }


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_images_are_never_all_in_memory(tmp_path: Path) -> None:
    store = open_stores(tmp_path).artifacts
    program, parts = stored_program(store), stored_images(store, NUM_IMAGES)
    small = stored_images(store, 7)
    large = request_of(program, parts)
    request = SpectrumRequest.model_validate(large, context={CONTEXT: store})
    plan = plan_job(request, LIMIT)
    assert plan.fits
    assert plan.whole.num_batches > 1
    arguments = [str(tmp_path), json.dumps(request_of(program, small)), json.dumps(large), str(LIMIT)]
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=False, timeout=1700
    )
    assert run.returncode == 0, run.stderr
    taken, micro_batch_size, largest = json.loads(run.stdout)
    print(taken / MIB, micro_batch_size, plan.whole.peak_bytes / MIB)
    assert micro_batch_size == plan.whole.micro_batch_size
    assert taken <= plan.whole.peak_bytes <= LIMIT
    assert taken < NUM_IMAGES * 3 * 32 * 32 * 4  # the images in float32
    assert largest > 0


def test_a_network_that_mixes_samples_is_not_split(tmp_path: Path) -> None:
    store = open_stores(tmp_path).artifacts
    parts = stored_images(store, 6000)
    visible, hidden = (
        SpectrumRequest.model_validate(request_of(stored_program(store, last), parts), context={CONTEXT: store})
        for last in (Centred(), Shifted())
    )
    plan = plan_job(visible, LIMIT)
    assert (plan.whole.num_batches, plan.fits) == (1, False)  # the service refuses it
    hardware = Hardware(torch.device("cpu"), 1, LIMIT)
    with pytest.raises(MixedSamplesError, match="6000 samples do not fit in memory together"):
        run_spectrum_job(hidden, hardware, ignore_progress, inputs=Inputs(artifacts=store))
