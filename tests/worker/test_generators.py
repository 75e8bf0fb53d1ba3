"""Every bit of a seed counts."""

from typing import Any

import numpy as np
import pytest
import torch

from hessian_spectrum.api_schemas.hessian_vs_ggn import HessianVsGgnRequest
from hessian_spectrum.api_schemas.methods import TraceResult
from hessian_spectrum.api_schemas.spectrum import SpectrumRequest
from hessian_spectrum.curvature.iteration import ignore_progress
from hessian_spectrum.theory.random_matrix.ensembles import wigner_law
from hessian_spectrum.theory.random_matrix.sampling import draw_sample
from hessian_spectrum.worker.builders import generator_of
from hessian_spectrum.worker.experiments.hessian_vs_ggn import run_hessian_vs_ggn_job
from hessian_spectrum.worker.experiments.spectrum import run_spectrum_job
from hessian_spectrum.worker.hardware import Hardware

SAME_LOW_BITS = [0, 2**32, 2**52, 2**53, 2**53 + 2**32, 2**62]
HARDWARE = Hardware(torch.device("cpu"), 1, 2**32)


def numbers(seed: int, *purpose: int) -> torch.Tensor:
    return torch.randn(64, generator=generator_of(seed, *purpose))


def test_seeds_with_the_same_lowest_bits_give_different_numbers() -> None:
    drawn = torch.stack([numbers(seed) for seed in SAME_LOW_BITS])
    assert (torch.corrcoef(drawn) - torch.eye(len(drawn))).abs().max() < 0.5


@pytest.mark.parametrize("seed", [0, 1, 77, 2**32 - 1])
def test_shorter_seeds_keep_the_numbers_of_pytorch(seed: int) -> None:
    assert torch.equal(numbers(seed), torch.randn(64, generator=torch.Generator().manual_seed(seed)))


def test_the_words_of_the_state_stand_where_they_are_written() -> None:
    """Both libraries seed one algorithm alike, so what follows a long seed must be numpy's stream after its first."""
    twister = np.random.MT19937(np.random.SeedSequence(2**40 + 5))
    twister.random_raw()  # numpy reads the last word of the seeded state before it draws new ones
    drawn = torch.randint(0, 2**16, (1000,), generator=generator_of(2**40 + 5))
    assert drawn.tolist() == (twister.random_raw(1000) % 2**16).tolist()


@pytest.mark.parametrize("seed", [3, 2**40])
def test_purposes_of_a_seed_share_no_numbers(seed: int) -> None:
    purposes: list[tuple[int, ...]] = [(), (1,), (2,), (2, 1), (2, 2), (3, 1, 1), (3, 1, 0)]
    assert len({tuple(numbers(seed, *purpose).tolist()) for purpose in purposes}) == len(purposes)
    assert not torch.equal(numbers(2**32, 1), numbers(0, 1, 1))  # nor does a longer seed stand for a purpose


@pytest.mark.parametrize("seed", [5, 2**53 + 1])
def test_a_state_that_is_kept_goes_on(seed: int) -> None:
    generator, resumed = generator_of(seed), torch.Generator()
    torch.randn(7, generator=generator)
    resumed.set_state(generator.get_state())
    assert torch.equal(torch.randn(700, generator=resumed), torch.randn(700, generator=generator))


def trace_of(**changes: dict[str, Any] | int) -> float:
    request: dict[str, Any] = {
        "kind": "spectrum",
        "model": {"kind": "mlp", "widths": [3, 4, 2]},
        "data": {"kind": "gaussian", "num_samples": 8, "input_dim": 3, "output_dim": 2},
        "loss": "mse",
        "method": {"kind": "trace", "estimator": "hutchinson", "num_probes": 2},
        "train": {"num_steps": 3, "learning_rate": 0.1, "batch_size": 2},
    }
    for name, change in changes.items():
        request[name] = request[name] | change if isinstance(change, dict) else change
    result = run_spectrum_job(SpectrumRequest.model_validate(request), HARDWARE, ignore_progress).result
    assert isinstance(result, TraceResult)
    return result.trace.value


@pytest.mark.parametrize("place", ["seed", "model", "data", "train"])
def test_every_seed_of_a_request_counts_with_all_its_bits(place: str) -> None:
    seeds: list[Any] = [seed if place == "seed" else {"seed": seed} for seed in SAME_LOW_BITS]
    assert len({trace_of(**{place: seed}) for seed in seeds}) == len(SAME_LOW_BITS)


def test_seeds_of_a_comparison_count_with_all_their_bits() -> None:
    request = HessianVsGgnRequest.model_validate(
        {
            "kind": "hessian-vs-ggn",
            "models": [{"kind": "gpt2", "n_layer": 1, "n_head": 1, "n_embd": 4, "n_positions": 4, "vocab_size": 256}],
            "data": {"kind": "text", "name": "pydoc-topics", "num_sequences": 2, "sequence_length": 4},
            "seeds": [0, 2**32, 2**53],
        }
    )
    result = run_hessian_vs_ggn_job(request, HARDWARE, ignore_progress).result
    assert len({run.points[0].loss for run in result.curves[0].runs}) == 3


def test_seeds_of_a_random_matrix_count_with_all_their_bits() -> None:
    drawn = [draw_sample(wigner_law(1.0), 8, seed).eigenvalues[0] for seed in SAME_LOW_BITS]
    assert len(set(drawn)) == len(SAME_LOW_BITS)
