"""Networks of users are checked before a job relies on their products; networks that are built in are not."""

import io
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hessian_spectrum.api_schemas.spectrum import SpectrumRequest
from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.curvature.losses import EmpiricalRisk, Mse
from hessian_spectrum.curvature.models.base import Model
from hessian_spectrum.curvature.models.class_axis import ClassesLast
from hessian_spectrum.curvature.models.exported import Exported
from hessian_spectrum.curvature.models.mlp import Mlp
from hessian_spectrum.curvature.models.written_out import WRITTEN_OUT
from hessian_spectrum.curvature.operators.products import Fallback
from hessian_spectrum.curvature.operators.self_check import WrongProductsError
from hessian_spectrum.jobs.plans import estimate
from hessian_spectrum.planning.job_plan import ComputationPlan
from hessian_spectrum.service.uploads.memory_budget import MemoryBudget
from hessian_spectrum.service.uploads.npz import archive_members
from hessian_spectrum.service.uploads.pt2 import read_program
from hessian_spectrum.worker.experiments.product_check import checked_fallback
from hessian_spectrum.worker.hardware import Hardware
from tests.curvature.operators.test_self_check import HalfTangent

CPU = torch.device("cpu")
HARDWARE = Hardware(CPU, 1, 2**30)
REQUEST = SpectrumRequest.model_validate(
    {
        "kind": "spectrum",
        "model": {"kind": "mlp", "widths": [3, 4, 2]},
        "data": {"kind": "inline", "x": [[1.0, 2.0, 3.0]], "y": [[0.5, 0.1]]},
        "loss": "mse",
        "method": {"kind": "exact"},
    }
)
PLAN = estimate(REQUEST)


class Gated(nn.Module):
    """A network with a gate that is a constant, because it is computed without gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x)
        with torch.no_grad():
            gate = hidden.sigmoid()
        result: Tensor = self.last(torch.tanh(hidden) * gate)
        return result


def exported(module: nn.Module, x: Tensor) -> Exported:
    shapes = ({0: torch.export.Dim.AUTO},)
    file = io.BytesIO()
    torch.export.save(torch.export.export(module.eval(), (x,), dynamic_shapes=shapes), file)
    with MemoryBudget(2**28).reservation() as reservation:
        read = read_program(archive_members(memoryview(file.getvalue()), reservation, max_members=100))
    return Exported(read.program, {name: torch.from_numpy(array.values.copy()) for name, array in read.arrays.items()})


def risk_of(model: Model, size: int = 12) -> EmpiricalRisk:
    generator = torch.Generator().manual_seed(1)
    x, y = (torch.randn(size, width, generator=generator, dtype=torch.float64) for width in (3, 2))
    return EmpiricalRisk(model, Mse(), Dataset(x, y).split(6))


def fallback_of(
    model: Model, *, plan: ComputationPlan = PLAN, given: Fallback | None = None, size: int = 12
) -> Fallback | None:
    parameters = model.initial_parameters(torch.Generator().manual_seed(2), torch.float64, CPU)
    return checked_fallback(REQUEST, risk_of(model, size), parameters, plan=plan, hardware=HARDWARE, fallback=given)


@pytest.fixture(scope="module")
def model() -> Exported:
    torch.manual_seed(0)
    return exported(Gated(), torch.randn(4, 3))


def half_tangent(x: Tensor) -> Tensor:
    result: Tensor = HalfTangent.apply(x)  # type: ignore[no-untyped-call]
    return result


def test_a_network_with_a_constant_region_passes(model: Exported) -> None:
    assert fallback_of(model) is None


def test_an_operator_with_a_wrong_tangent_makes_the_job_go_on_by_double_backward(
    model: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(WRITTEN_OUT, "aten.tanh", half_tangent)
    fallback = fallback_of(model)
    assert fallback is not None
    assert fallback.method == "double-backward"
    assert fallback.reason.startswith("products of this network are wrong: v.Aw differs from w.Av")


def test_a_network_whose_classes_lie_along_another_axis_is_checked_like_others(
    model: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(WRITTEN_OUT, "aten.tanh", half_tangent)
    monkeypatch.setattr("hessian_spectrum.worker.experiments.product_check.SUSPECTS", {"aten.tanh"})
    fallback = fallback_of(ClassesLast(model, axis=1, output_axes=(2,)))
    assert fallback is not None
    assert fallback.method == "double-backward"
    assert fallback.reason.endswith("of its operators these may be the cause: aten.tanh")


def test_an_operator_that_is_wrong_in_both_modes_ends_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(torch.autograd.Function):
        """tanh whose derivative is right and has a wrong derivative itself."""

        generate_vmap_rule = True

        @staticmethod
        def forward(x: Tensor) -> Tensor:
            return x.tanh()

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
            ctx.save_for_backward(inputs[0])

        @staticmethod
        def backward(ctx: Any, cotangent: Tensor) -> Tensor:
            (x,) = ctx.saved_tensors
            right = 1 / x.detach().cosh().square()
            result: Tensor = cotangent * (right + 0 * x)
            return result

    monkeypatch.setitem(WRITTEN_OUT, "aten.tanh", Wrong.apply)
    plain = exported(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), torch.randn(4, 3))
    with pytest.raises(WrongProductsError, match="differences of gradients"):
        fallback_of(plain)


def test_what_is_known_stays(model: Exported) -> None:
    known = Fallback("forward-over-reverse", "a process died")
    assert fallback_of(model, given=known) == known


def test_networks_that_are_built_in_are_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hessian_spectrum.worker.experiments.product_check.self_check", None)
    assert fallback_of(Mlp((3, 4, 2))) is None


def test_jobs_that_fill_the_memory_check_fewer_samples(model: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    full = replace(PLAN, peak_bytes=HARDWARE.memory_bytes)
    assert fallback_of(model, plan=full) is None
    monkeypatch.setattr("hessian_spectrum.worker.experiments.product_check.self_check", None)
    assert fallback_of(model, plan=full, size=3) is None  # not one sample
