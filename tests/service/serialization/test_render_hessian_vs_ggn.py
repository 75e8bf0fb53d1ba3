"""Comparisons as pictures and arrays, whatever was measured."""

import io
from typing import Any

import numpy as np
import pytest

from hessian_spectrum.api_schemas.hessian_vs_ggn_results import HessianVsGgnResult
from hessian_spectrum.service.problems import ProblemError
from hessian_spectrum.service.serialization.render import parse_result, render
from hessian_spectrum.service.serialization.resmooth import SmoothingOverrides, resmooth

COMPUTATION = {
    "versions": {},
    "device": "cpu",
    "num_threads": 1,
    "precision": "float32",
    "tf32": False,
    "data_sha256": "",
    "num_products": 7,
    "execution": "interpreted",
    "product_fallback": None,
    "wall_time_seconds": 0.1,
}


def point(step: int, hessian: float, *, trained: bool, converged: bool = True) -> dict[str, Any]:
    error = None if hessian == 0 else {"value": abs(1 - 0.5 / hessian), "uncertainty": 1e-3}
    return {
        "step": step,
        "learning_rate": 0.1 if trained else None,
        "loss": 5 / (step + 1),
        "mean_residual_norm": 1 / (step + 2),
        "hessian": {"value": hessian, "residual": 1e-4, "converged": converged},
        "ggn": {"value": 0.5, "residual": 1e-4, "converged": True},
        "relative_error": error,
    }


def comparison(
    eigenvalues: list[float], steps: list[int], num_models: int = 1, *, num_seeds: int = 2, trained: bool = True
) -> HessianVsGgnResult:
    points = [
        point(step, value, trained=trained, converged=value > 1) for step, value in zip(steps, eigenvalues, strict=True)
    ]
    errors = [one["relative_error"]["value"] for one in points if one["relative_error"]]
    spread = [error / 10 for error in errors] if num_seeds > 1 else None
    grid = list(map(float, range(len(errors))))
    mean = {"grid": grid, "mean": errors, "standard_error": spread} if trained and errors else None
    losses = [one["loss"] for one in points]
    loss = {"grid": steps, "mean": losses, "standard_error": [0.1] * len(steps) if spread else None}
    curve = {
        "num_parameters": 123,
        "runs": [{"seed": seed, "points": points, "parameters_sha256": ""} for seed in range(num_seeds)],
        "loss": loss if trained else None,
        "relative_error": mean,
        "against_residual": mean,
        "against_loss": None,
    }
    return HessianVsGgnResult.model_validate(
        {
            "curves": [{"label": f"model ${index}_{{", **curve} for index in range(num_models)],
            "num_sequences": 8,
            "sequence_length": 16,
            "tolerance": 1e-4,
            "provenance": COMPUTATION,
        }
    )


RESULTS = {
    "one point": comparison([2.0], [0], num_seeds=1),
    "no error": comparison([0.0], [0]),
    "equal": comparison([0.5, 0.5], [0, 1]),
    "wide": comparison([2.0, -1e-30, 1e30], [0, 10, 100_000]),
    "many models": comparison([2.0], [0], num_models=64, trained=False),
    "four models": comparison([2.0, 3.0], [0, 5], num_models=4),
    "many steps": comparison([2.0 + step for step in range(200)], list(range(200))),
}


@pytest.mark.parametrize("name", RESULTS)
def test_every_comparison_has_a_picture(name: str) -> None:
    assert bytes(render(RESULTS[name], "png"))[:8] == b"\x89PNG\r\n\x1a\n"
    assert b"</svg>" in bytes(render(RESULTS[name], "svg"))
    assert bytes(render(RESULTS[name], "pdf")).startswith(b"%PDF")


@pytest.mark.parametrize("name", RESULTS)
def test_documents_are_read_back(name: str) -> None:
    assert parse_result(bytes(render(RESULTS[name], "json"))) == RESULTS[name]


def test_arrays_say_what_the_document_says() -> None:
    result = comparison([2.0, 0.0, 4.0], [0, 10, 20], num_models=2)
    with np.load(io.BytesIO(render(result, "npz")), allow_pickle=False) as arrays:
        assert arrays["steps_1"].tolist() == [0, 10, 20]
        assert arrays["learning_rates_0"].tolist() == [0.1] * 3
        assert arrays["hessian_0"].tolist() == [[2.0, 0.0, 4.0]] * 2
        assert arrays["hessian_converged_0"].tolist() == [[True, False, True]] * 2
        np.testing.assert_allclose(arrays["relative_error_1"], [[0.75, np.nan, 0.875]] * 2)
        assert arrays["mean_loss_0_grid"].tolist() == [0, 10, 20]
        assert arrays["against_residual_1_standard_error"].shape == (2,)
        assert "against_loss_0_grid" not in arrays
        document = HessianVsGgnResult.model_validate_json(
            str(arrays["document"])
            .replace('"parameters_sha256":""', '"parameters_sha256":"","points":[]')
            .replace(
                '"num_parameters":123',
                '"num_parameters":123,"loss":null,"relative_error":null,"against_residual":null,"against_loss":null',
            )
        )
    assert document.provenance == result.provenance
    assert [curve.label for curve in document.curves] == ["model $0_{", "model $1_{"]
    assert all(run.points == [] for curve in document.curves for run in curve.runs)


def test_a_comparison_has_no_curves_to_smooth() -> None:
    with pytest.raises(ProblemError) as caught:
        resmooth(RESULTS["equal"], SmoothingOverrides(kappa=4.0))
    assert caught.value.problem.status == 422
    assert "hessian-vs-ggn" in (caught.value.problem.detail or "")
