"""Networks of users over HTTP: modules are uploaded as programs, and their spectra are those of the modules."""

import asyncio
import copy
import io
from collections.abc import Callable
from functools import partial
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.backends import opt_einsum

from hessian_spectrum.client.async_http import AsyncSpectrumClient
from hessian_spectrum.client.errors import ProblemResponseError
from hessian_spectrum.client.http import SpectrumClient
from hessian_spectrum.client.module_export import ModuleExportError, module_program

SCALE = 1e-12
"""Largest deviation of an eigenvalue, relative to the largest one."""


class Residual(nn.Module):
    """A small residual network with batch norm, tied weights, a frozen bias and a region without gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.head = nn.Linear(3, 3)
        self.other = nn.Linear(3, 3)
        self.other.weight = self.head.weight
        self.other.bias.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu_(self.norm(self.stem(x)))
        with torch.no_grad():
            gate = hidden.mean((2, 3)).sigmoid()
        pooled = hidden.mean((2, 3))
        return self.other(torch.tanh(self.head(pooled)) * gate)


@pytest.fixture
def module() -> nn.Module:
    torch.manual_seed(0)
    module = Residual()
    assert module.norm.running_mean is not None
    module.norm.running_mean.normal_()
    return module.eval()


X = torch.randn(6, 1, 4, 4, generator=torch.Generator().manual_seed(1))
LABELS = torch.tensor([0, 1, 2, 1, -100, 0])
NUMBERS = torch.randn(6, 3, generator=torch.Generator().manual_seed(2))


def half_squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).square().sum() / 2 / len(outputs)


def eigenvalues(module: nn.Module, x: Tensor, y: Tensor, loss: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """The oracle: the Hessian of the module by double backward, in float64."""
    module = copy.deepcopy(module).double()
    parameters = [each for each in module.parameters() if each.requires_grad]
    gradient = torch.autograd.grad(
        loss(module(x.double() if x.is_floating_point() else x), y), parameters, create_graph=True
    )
    rows = []
    for entry in torch.cat([each.reshape(-1) for each in gradient]):
        row = torch.autograd.grad(entry, parameters, retain_graph=True, materialize_grads=True)
        rows.append(torch.cat([each.reshape(-1) for each in row]))
    matrix = torch.stack(rows)
    return torch.linalg.eigvalsh((matrix + matrix.T) / 2)


def spectrum(model: dict[str, Any], data: dict[str, Any], loss: str = "cross-entropy", **fields: Any) -> dict[str, Any]:
    return {"kind": "spectrum", "model": model, "data": data, "loss": loss, "method": {"kind": "exact"}} | fields


def close(found: Any, expected: Tensor) -> bool:
    return bool(np.abs(np.array(found) - expected.numpy()).max() <= SCALE * float(expected.abs().max()))


def test_the_spectrum_is_that_of_the_module(client: SpectrumClient, module: nn.Module) -> None:
    request = spectrum(client.upload_module(module, X), client.upload_data(X, LABELS))
    result = client.run(request)
    assert close(result.eigenvalues, eigenvalues(module, X, LABELS, nn.functional.cross_entropy))
    shapes = {name: list(each.shape) for name, each in module.named_parameters() if each.requires_grad}
    assert [each.name for each in result.parameters] == list(shapes)
    assert client.estimate(request).parameter_shapes == shapes
    assert result.provenance.product_fallback is None


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self._scale = nn.Parameter(torch.tensor(1.5))
        self.add_module("block/one", nn.Linear(3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self._scale * torch.tanh(self.get_submodule("block/one")(x))  # type: ignore[no-any-return]


def test_names_may_hold_what_those_of_modules_may(client: SpectrumClient) -> None:
    torch.manual_seed(0)
    module, x = Named(), torch.randn(6, 3)
    model, data = client.upload_module(module, x), client.upload_data(x, NUMBERS)
    with torch.no_grad():
        module._scale.add_(0.25)
    later = {**model, "parameters": client.upload_parameters(module)}
    result = client.run(spectrum(later, data, "mse"))
    assert [each.name for each in result.parameters] == ["_scale", "block/one.weight", "block/one.bias"]
    assert close(result.eigenvalues, eigenvalues(module, x, NUMBERS.double(), half_squared_error))


def test_regression_in_micro_batches_and_with_parameters_uploaded_later(
    client: SpectrumClient, module: nn.Module
) -> None:
    model, data = client.upload_module(module, X), client.upload_data(X, NUMBERS.double())
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)), alpha=0.1)
    model |= {"parameters": client.upload_parameters(module)}
    result = client.run(spectrum(model, data, "mse"))
    assert close(result.eigenvalues, eigenvalues(module, X, NUMBERS.double(), half_squared_error))


def test_a_glob_makes_the_other_parameters_constants(client: SpectrumClient, module: nn.Module) -> None:
    model = client.upload_module(module, X) | {"trainable": "head.*"}
    result = client.run(spectrum(model, client.upload_data(X, LABELS)))
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name.startswith("head."))
    assert close(result.eigenvalues, eigenvalues(module, X, LABELS, nn.functional.cross_entropy))


@pytest.mark.parametrize(
    "method",
    [
        {"kind": "lanczos", "num_steps": 10, "num_probes": 2, "num_points": 32},
        {"kind": "top-k", "k": 2, "which": "largest"},
        {"kind": "trace", "num_probes": 100},
    ],
)
@pytest.mark.parametrize("matrix", ["hessian", "ggn", "functional"])
def test_every_method_and_matrix(client: SpectrumClient, module: nn.Module, method: Any, matrix: str) -> None:
    model, data = client.upload_module(module, X), client.upload_data(X, LABELS)
    exact = client.run(spectrum(model, data, matrix=matrix)).eigenvalues
    result = client.run(spectrum(model, data, matrix=matrix, method=method, precision="float64"))
    if method["kind"] == "trace":
        assert result.trace.lower <= sum(exact) <= result.trace.upper
    elif method["kind"] == "top-k":
        assert result.eigenpairs[0].lower <= max(exact) <= result.eigenpairs[0].upper
    else:
        assert result.trace.lower <= sum(exact) <= result.trace.upper


def test_equal_networks_have_one_id_and_the_description_lists_what_they_have(
    client: SpectrumClient, module: nn.Module
) -> None:
    program = client.upload_module(module, X)["program"]
    assert client.upload_module(copy.deepcopy(module), X)["program"] == program
    described = client.artifact(program["id"])
    assert described.kind == "program"
    shapes = {each.name: (each.shape, each.trainable) for each in described.parameters}
    assert shapes["head.weight"] == ([3, 3], True)
    assert shapes["other.bias"] == ([3], False)
    assert "other.weight" not in shapes  # it is head.weight
    assert described.inputs[0].shape == [None, 1, 4, 4]
    assert "aten.batch_norm" in described.operators


def test_the_asynchronous_client_uploads_the_same(server: Any, client: SpectrumClient, module: nn.Module) -> None:
    async def upload() -> dict[str, Any]:
        async with AsyncSpectrumClient(server.url) as other:
            return await other.upload_module(module, X)

    assert asyncio.run(upload()) == client.upload_module(module, X)


def test_inputs_of_whole_numbers(client: SpectrumClient) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Tanh(), nn.Linear(6, 2))
    x, y = torch.tensor([[0, 1], [2, 4], [3, 3]]), torch.tensor([0, 1, 1])
    result = client.run(spectrum(client.upload_module(module, x), client.upload_data(x, y)))
    assert close(result.eigenvalues, eigenvalues(module, x, y, nn.functional.cross_entropy))


@pytest.mark.parametrize(
    ("x", "y", "loss", "place", "words"),
    [
        (X[:, :, :3], LABELS, "cross-entropy", "data.x", "1 x 3 x 4"),
        (X, NUMBERS[:, :2], "mse", "data.y", "has 3"),
        (X, LABELS + 3, "cross-entropy", "data.y", "0 to 2"),
        (X, NUMBERS, "cross-entropy", "data.y", "of shape (n,)"),
    ],
)
def test_data_that_do_not_fit_are_refused_at_their_field(
    client: SpectrumClient, module: nn.Module, *, x: Tensor, y: Tensor, loss: str, place: str, words: str
) -> None:
    model = client.upload_module(module, X)
    with pytest.raises(ProblemResponseError) as caught:
        client.submit(spectrum(model, client.upload_data(x, y), loss))
    (error,) = caught.value.problem.errors or []
    assert ".".join(map(str, error.loc)) == f"body.{place}"
    assert words in error.msg


def test_parameters_that_do_not_fit_and_globs_that_match_nothing_are_refused(
    client: SpectrumClient, module: nn.Module
) -> None:
    model, data = client.upload_module(module, X), client.upload_data(X, LABELS)
    wrong = client.upload_parameters({"head.weight": torch.zeros(3, 3)})
    for changed, words in (
        (model | {"parameters": wrong}, "lacks"),
        (model | {"trainable": "body.*"}, "no parameter has such a name"),
        (model | {"program": data}, "not a program"),
        (model | {"program": {"kind": "artifact", "id": 64 * "0"}}, "no such artifact"),
        (model | {"numbers_per_sample": {"linear": 1}}, "leave it out"),
    ):
        with pytest.raises(ProblemResponseError, match=words):
            client.submit(spectrum(changed, data))


def test_a_file_of_another_version_or_kind_is_refused(server: Any) -> None:
    headers = {"Content-Type": "application/vnd.pytorch.pt2"}
    buffer = io.BytesIO()
    np.savez(buffer, x=np.zeros(3))
    for body, status in ((buffer.getvalue(), 400), (b"not an archive", 400), (b"", 400)):
        response = httpx.post(f"{server.url}/v1/artifacts", content=body, headers=headers)
        assert response.status_code == status, response.text


class Straight(torch.autograd.Function):
    """A sign whose derivative is 1, which export drops."""

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        return x.sign()

    @staticmethod
    def backward(context: Any, *cotangents: Any) -> Any:
        return cotangents[0]


class Calls(nn.Module):
    """A linear layer, and a function of the module and its input."""

    def __init__(self, function: Callable[["Calls", Tensor], Any]) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 4)
        self.register_buffer("count", torch.zeros(()))
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def counted(module: Calls, x: Tensor) -> Tensor:
    module.count += 1
    return module.layer(x)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda module, x: module.layer(x) if x.sum() > 0 else x, "torch.where"),
        (lambda module, x: Straight.apply(module.layer(x)), "gradient"),
        (lambda module, x: module.layer(x) + torch.randn(x.shape[0], 4), "random"),
        (lambda module, x: (module.layer(x), x), "one array"),
        (lambda module, x: x, "no parameter"),
        (counted, "buffer count"),
    ],
)
def test_modules_that_cannot_be_right_are_refused_before_they_are_sent(function: Any, words: str) -> None:
    with pytest.raises(ModuleExportError, match=words):
        module_program(Calls(function), torch.randn(3, 3))


def test_dropout_and_one_sample_are_refused() -> None:
    with pytest.raises(ModuleExportError, match=r"1 is dropout in training mode.*eval\(\)"):
        module_program(nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.1)), torch.randn(3, 3))
    with pytest.raises(ModuleExportError, match="two samples"):
        module_program(nn.Linear(3, 3), torch.randn(1, 3))
    with pytest.warns(UserWarning, match="fixes the number of samples to 3"):
        module_program(Calls(lambda module, x: module.layer(x) + torch.zeros(len(x), 4)), torch.randn(3, 3))


def test_a_product_of_three_tensors_leaves_the_number_of_samples_open() -> None:
    """Where opt_einsum is installed, as it is for these tests, it would fix the number; a warning is an error here."""
    assert opt_einsum.is_available()
    module_program(Calls(lambda module, x: torch.einsum("bi,bj,ki->bk", x, x, module.layer.weight)), torch.randn(5, 3))


class Weighted(nn.Module):
    """A loss of its own, whose arguments have the names that a test gives them."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)


class NamedAsTargets(Weighted):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return (self.layer(x) - y).square()


class NamedOtherwise(Weighted):
    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        return (self.layer(x) - target).square()


class OneNamedAsTargets(Weighted):
    def forward(self, y: Tensor) -> Tensor:
        return self.layer(y).tanh()


def test_an_argument_named_as_the_targets_is_refused() -> None:
    inputs = torch.randn(3, 3), torch.randn(3, 1)
    with pytest.raises(ModuleExportError, match=r"named y, .* rename the argument"):
        module_program(NamedAsTargets(), inputs)
    assert module_program(NamedOtherwise(), inputs)
    assert module_program(OneNamedAsTargets(), inputs[0])


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"x": torch.zeros(3, 3)}, "dictionary: give a tuple of tensors"),
        ([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]], "entry 0 of example_inputs is of type list"),
        (3.0, "example_inputs is of type float"),
        (None, "example_inputs is of type NoneType"),
        (np.array([["a"], ["b"]]), "example_inputs is of type ndarray"),
    ],
)
def test_inputs_that_are_no_tensors_are_refused(inputs: Any, words: str) -> None:
    with pytest.raises(ModuleExportError, match=words):
        module_program(nn.Linear(3, 1), inputs)


def test_arrays_of_numpy_and_code_without_gradients_give_the_same_program(client: SpectrumClient) -> None:
    torch.manual_seed(0)
    module, table = nn.Sequential(nn.Linear(3, 2), nn.Tanh()), nn.Embedding(4, 2)
    expected = client.upload_module(module, torch.randn(4, 3))
    assert client.upload_module(module, np.random.default_rng(0).normal(size=(4, 3))) == expected
    assert client.upload_module(table, np.array([0, 1, 2])) == client.upload_module(table, torch.tensor([0, 1, 2]))
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert client.upload_module(module, torch.randn(4, 3)) == expected


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(number: float) -> None:
    module = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    with torch.no_grad():
        module[1].weight[0, 1] = number
    with pytest.raises(ModuleExportError, match=r"the parameter 1\.weight holds NaN or infinity"):
        module_program(module, torch.randn(3, 3))


def test_results_that_are_not_finite_are_said_to_be() -> None:
    with pytest.raises(ModuleExportError, match="returns NaN or infinity on the example"):
        module_program(Calls(lambda module, x: module.layer(x) / 0), torch.randn(3, 3))
    with pytest.raises(ModuleExportError, match="gradient of the module's output with respect to layer"):
        module_program(Calls(lambda module, x: (module.layer(x) * 0).sqrt()), torch.randn(3, 3))


def physics(module: Calls, x: Tensor, norm: Callable[[Tensor], Tensor] = torch.tanh) -> Tensor:
    """The residual of a differential equation: the forward pass takes two derivatives itself."""
    x = x.detach().requires_grad_()
    values = norm(module.layer(x))
    slope = torch.autograd.grad(values.sum(), x, create_graph=True)[0]
    curvature = torch.autograd.grad(slope[:, 0].sum(), x, create_graph=True)[0]
    return (curvature[:, :1] + values[:, :1].square()).expand(-1, 3)


def test_a_forward_pass_that_takes_derivatives(client: SpectrumClient) -> None:
    torch.manual_seed(0)
    module = Calls(physics)
    x, y = torch.randn(5, 3), torch.randn(5, 3)
    result = client.run(spectrum(client.upload_module(module, x), client.upload_data(x, y), "mse"))
    assert close(result.eigenvalues, eigenvalues(module, x, y.double(), half_squared_error))


def standardised(values: Tensor) -> Tensor:
    centred = values - values.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 0.1).sqrt()


@pytest.mark.parametrize(
    "norm",
    [
        lambda values: nn.functional.layer_norm(values, (4,), eps=0.1),
        lambda values: nn.functional.instance_norm(values.unsqueeze(1), eps=0.1).squeeze(1),
    ],
)
def test_norms_whose_third_derivatives_pytorch_does_not_know(
    client: SpectrumClient, norm: Callable[[Tensor], Tensor]
) -> None:
    """The residual holds two derivatives of the norm, the Hessian two more."""
    torch.manual_seed(0)
    module, written_out = Calls(partial(physics, norm=norm)), Calls(partial(physics, norm=standardised))
    written_out.load_state_dict(module.state_dict())
    x, y = torch.randn(5, 3), torch.randn(5, 3)
    result = client.run(spectrum(client.upload_module(module, x), client.upload_data(x, y), "mse"))
    assert close(result.eigenvalues, eigenvalues(written_out, x, y.double(), half_squared_error))


class Held(Weighted):
    """A residual, times a parameter that has no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        slope = torch.autograd.grad(torch.tanh(self.layer(x)).sum(), x, create_graph=True)[0]
        return slope * self.factor.detach()


def test_a_parameter_that_a_traced_forward_pass_detaches_is_refused() -> None:
    with pytest.raises(ModuleExportError, match="with respect to factor differs"):
        module_program(Held(), torch.randn(4, 3))


def test_indices_beyond_a_table_are_refused(client: SpectrumClient) -> None:
    module = nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(6, 2))
    model = client.upload_module(module, torch.tensor([[0, 1], [2, 4]]))
    data = client.upload_data(np.array([[0, 7], [1, 2]]), np.array([0, 1]))
    with pytest.raises(ProblemResponseError, match="indices into a table of 5 rows"):
        client.submit(spectrum(model, data))
