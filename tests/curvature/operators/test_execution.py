"""How programs run: the choice is measured once and remembered, and products are as precise as they say."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.curvature.data.gaussian import gaussian
from hessian_spectrum.curvature.losses import CrossEntropy, EmpiricalRisk, Mse
from hessian_spectrum.curvature.models.gpt2 import Gpt2
from hessian_spectrum.curvature.models.mlp import Mlp
from hessian_spectrum.curvature.operators.matrices import GgnOperator, HessianOperator
from hessian_spectrum.curvature.operators.programs import Execution, Map, Program, Timing, Timings, record
from hessian_spectrum.curvature.operators.risk_operator import RiskOperator
from hessian_spectrum.quadrature.exceptions import InvalidProblemError

Seeded = Callable[[int], torch.Generator]
F64 = torch.float64


@pytest.fixture
def program(seeded: Seeded) -> Program:
    matrix = torch.randn(6, 6, generator=seeded(0), dtype=F64)
    return record(lambda v: v @ matrix @ matrix.T, torch.zeros(6, dtype=F64))[1]


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What was compiled; the compiled function takes half of the interpreted one's time."""
    found: list[object] = []

    def compile_(graph: Callable[..., Tensor], **options: object) -> Callable[..., Tensor]:
        found.append(graph)
        return graph

    monkeypatch.setattr(torch, "compile", compile_)
    monkeypatch.setattr(
        "hessian_spectrum.curvature.operators.programs._seconds",
        lambda run, argument: 1.0 if isinstance(run, Program) else 0.5,
    )
    return found


def test_few_products_are_not_worth_compiling(program: Program, compilations: list[object]) -> None:
    execution = Execution(num_products=1)
    run = execution.prepare(program, torch.zeros(6, dtype=F64))
    assert run is program
    assert execution.description == "interpreted"
    assert compilations == []


def test_the_choice_is_measured_once_and_remembered(
    program: Program, compilations: list[object], tmp_path: Path
) -> None:
    argument = torch.ones(6, dtype=F64)
    first = Execution(num_products=1000, timings=Timings(tmp_path / "timings.json"))
    assert_close(first.prepare(program, argument)(argument), program(argument))
    assert first.description == "compiled"
    (stored,) = json.loads((tmp_path / "timings.json").read_text()).values()
    assert stored["interpreted"] == 1.0
    assert stored["compiled"] == 0.5
    # another job knows: it compiles without measuring, or does not compile for few products
    few = Execution(num_products=0, timings=Timings(tmp_path / "timings.json"))
    assert few.prepare(program, argument) is program
    many = Execution(num_products=1000, timings=Timings(tmp_path / "timings.json"))
    many.prepare(program, argument)
    assert many.description == "compiled"
    assert len(compilations) == 2


def test_micro_batches_of_one_shape_are_compiled_once(compilations: list[object], seeded: Seeded) -> None:
    model = Mlp((3, 4, 2), "tanh")
    data = gaussian(12, 3, 2, teacher="linear", noise=0.1, generator=seeded(0))
    parameters = model.initial_parameters(seeded(1), F64, torch.device("cpu"))
    risk = EmpiricalRisk(model, Mse(), data.split(4))
    plain = HessianOperator(risk, parameters)
    operator = HessianOperator(risk, parameters, execution=Execution(mode="compiled"))
    vector = torch.randn(plain.dim, generator=seeded(2), dtype=F64)
    assert_close(operator.matvec(vector), plain.matvec(vector), rtol=1e-12, atol=1e-14)
    assert len(compilations) == 1


def test_a_compiler_that_fails_is_not_needed(
    program: Program, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(graph: object, **options: object) -> Map:
        raise RuntimeError("no C++ compiler here")

    monkeypatch.setattr(torch, "compile", fail)
    monkeypatch.setattr("hessian_spectrum.curvature.operators.programs._seconds", lambda run, argument: 1.0)
    timings = Timings()
    execution = Execution(num_products=1000, timings=timings)
    assert execution.prepare(program, torch.zeros(6, dtype=F64)) is program
    assert "no C++ compiler" in caplog.text


def test_compiling_pays_when_products_save_more_than_it_takes() -> None:
    timing = Timing(interpreted=1.0, compiled=0.75, compilation=10.0)
    assert not timing.pays(40)
    assert timing.pays(41)
    assert not Timing(1.0, float("inf"), float("inf")).pays(10**9)


def test_a_damaged_file_is_as_good_as_none(tmp_path: Path) -> None:
    path = tmp_path / "timings.json"
    for text in ("", "[1]", '{"a": 1}', '{"a": {"interpreted": 1}}', "\x00"):
        path.write_text(text)
        assert Timings(path).get("a") is None
    Timings(path).put("b", Timing(1.0, 2.0, 3.0))
    assert Timings(path).get("b") == Timing(1.0, 2.0, 3.0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's own, on importing its compiler
def test_compiled_products_are_the_same(seeded: Seeded) -> None:
    model = Mlp((3, 4, 2), "tanh")
    data = gaussian(12, 3, 2, teacher="linear", noise=0.1, generator=seeded(0))
    parameters = model.initial_parameters(seeded(1), F64, torch.device("cpu"))
    risk = EmpiricalRisk(model, Mse(), [data])
    plain = HessianOperator(risk, parameters)
    operator = HessianOperator(risk, parameters, execution=Execution(mode="compiled"))
    columns = torch.randn(plain.dim, 3, generator=seeded(2), dtype=F64)
    assert_close(operator.matmat(columns), plain.matmat(columns), rtol=1e-12, atol=1e-14)
    assert_close(operator.matvec(columns[:, 0]), plain.matvec(columns[:, 0]), rtol=1e-12, atol=1e-14)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_cuda_graphs_give_the_same_products(seeded: Seeded) -> None:
    model, device = Mlp((3, 4, 2), "tanh"), torch.device("cuda")
    data = gaussian(12, 3, 2, teacher="linear", noise=0.1, generator=seeded(0)).to(F64, device)
    parameters = model.initial_parameters(seeded(1), F64, device)
    operator = HessianOperator(EmpiricalRisk(model, Mse(), data.split(5)), parameters)
    plain = HessianOperator(EmpiricalRisk(model, Mse(), data.split(5)), parameters, memory_bytes=0)
    columns = torch.randn(plain.dim, 3, generator=seeded(2), dtype=F64).to(device)
    for _ in range(2):
        assert_close(operator.matmat(columns), plain.matmat(columns), rtol=1e-12, atol=1e-14)


F32, F64 = torch.float32, torch.float64


def build(operator: type[RiskOperator], seeded: Seeded, dtype: torch.dtype, **options: object) -> RiskOperator:
    model = Gpt2(n_layer=1, n_head=2, n_embd=16, n_positions=8, vocab_size=40)
    inputs, targets = torch.randint(40, (2, 6, 8), generator=seeded(0))
    risk = EmpiricalRisk(model, CrossEntropy(), Dataset(inputs, targets).split(4))
    return operator(risk, model.initial_parameters(seeded(1), dtype, torch.device("cpu")), **options)


@pytest.mark.parametrize("operator", [HessianOperator, GgnOperator])
def test_bfloat16_products_deviate_as_reported(operator: type[RiskOperator], seeded: Seeded) -> None:
    exact, single = (build(operator, seeded, dtype) for dtype in (F64, F32))
    halved = build(operator, seeded, F32, matmul_precision="bfloat16")
    columns = torch.randn(exact.dim, 3, generator=seeded(2), dtype=F64)
    expected = exact.matmat(columns)
    found = halved.matmat(columns.float())
    assert found.dtype == F32
    deviation = float((found.double() - expected).norm() / expected.norm())
    rounding = float((single.matmat(columns.float()).double() - expected).norm() / expected.norm())
    assert rounding < 1e-5 < 1e-4 < deviation < 3e-2
    assert halved.precision_deviation == pytest.approx(deviation, rel=0.01)
    assert single.precision_deviation is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU may have cores for it")
def test_without_tensor_cores_tf32_changes_nothing(seeded: Seeded) -> None:
    single, tf32 = build(HessianOperator, seeded, F32), build(HessianOperator, seeded, F32, matmul_precision="tf32")
    vector = torch.randn(single.dim, generator=seeded(3))
    before = torch.backends.cuda.matmul.fp32_precision
    assert torch.equal(tf32.matvec(vector), single.matvec(vector))
    assert tf32.precision_deviation == 0.0
    assert torch.backends.cuda.matmul.fp32_precision == before


def test_double_precision_cannot_be_reduced(seeded: Seeded) -> None:
    with pytest.raises(InvalidProblemError, match="float32"):
        build(HessianOperator, seeded, F64, matmul_precision="bfloat16")
