"""Every entry of every registry has what callers see of it: schema, example, estimate, job, npz and picture.

Entries are found as the server finds them, so that one that is added is tried without a change here.
"""

import io
import json
from collections.abc import Iterator
from math import prod
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from hessian_spectrum.api_schemas.closed_form import ClosedFormRequest
from hessian_spectrum.api_schemas.data import KINDS as DATA_KINDS
from hessian_spectrum.api_schemas.data import num_samples, sequence_length
from hessian_spectrum.api_schemas.experiments import EXPERIMENTS
from hessian_spectrum.api_schemas.experiments.figure import FigureRequest
from hessian_spectrum.api_schemas.hessian_vs_ggn import HessianVsGgnRequest
from hessian_spectrum.api_schemas.jobs import JOB_KINDS
from hessian_spectrum.api_schemas.losses import LOSSES
from hessian_spectrum.api_schemas.methods import METHODS
from hessian_spectrum.api_schemas.models import FAMILIES, KINDS
from hessian_spectrum.api_schemas.spectrum import SpectrumRequest
from hessian_spectrum.client.http import SpectrumClient
from hessian_spectrum.client.module_export import module_program
from hessian_spectrum.curvature.losses import LOSS_CLASSES
from hessian_spectrum.curvature.registry import dataset_functions, method_classes, model_classes
from hessian_spectrum.planning.activations import ACTIVATIONS
from hessian_spectrum.results.plots.drawings import experiment_plots
from hessian_spectrum.results.plots.spectrum import method_plots
from hessian_spectrum.theory.closed_form.families import spectra
from hessian_spectrum.worker.builders import build_dataset, build_loss, build_model, build_parameters
from tests.fixtures.longer import long

HTTP = httpx.Client(timeout=100)


@pytest.fixture(scope="module", autouse=True)
def _closed_connections() -> Iterator[None]:
    yield
    HTTP.close()


SAMPLES = {
    "numbers": {"kind": "inline", "x": [[0.1, -1.0], [1.0, 0.5]], "y": [[1.0, 0.0], [-1.0, 2.0]]},
    "labels": {"kind": "inline", "x": [[0.1, -1.0], [1.0, 0.5]], "y": [1, 0]},
    "counts": {"kind": "inline", "x": [[0.1, -1.0], [1.0, 0.5]], "y": [[3.0, 0.0], [1.0, 2.0]]},
    "probabilities": {"kind": "inline", "x": [[0.1, -1.0], [1.0, 0.5]], "y": [[0.5, 0.0], [-100, 1.0]]},
    "distributions": {"kind": "inline", "x": [[0.1, -1.0], [1.0, 0.5]], "y": [[0.25, 0.75], [1.0, 0.0]]},
}


def job_of(example: Any) -> dict[str, Any]:
    return {"kind": "spectrum", "method": {"kind": "exact"}} | json.loads(json.dumps(example))


def jobs() -> Iterator[tuple[str, dict[str, Any]]]:
    """A small job for each entry."""
    for name, kind in KINDS.items():
        job = job_of(kind.example)
        if "checkpoint" in job["model"]:
            job["model"]["checkpoint"] = "tiny-gpt2"
            job["method"] = {"kind": "top-k", "k": 1}
        yield f"model {name}", job
    for message, data in DATA_KINDS.items():
        yield f"data {message.__name__}", job_of(data.example)
    for name, loss in LOSSES.items():
        num_outputs = 1 if loss.is_linear else 2 * loss.outputs_per_target
        model = {"kind": "mlp", "widths": [2, 3, num_outputs], "activation": "tanh"}
        yield f"loss {name}", job_of({"model": model, "data": SAMPLES[loss.only_target or "labels"], "loss": name})
    for name in ACTIVATIONS:
        model = {"kind": "conv", "channels": [1], "stride": 2, "activation": name}
        job = job_of({"model": model, "data": {"kind": "digits", "num_samples": 8}, "loss": "mse"})
        yield f"activation {name}", job | {"method": {"kind": "top-k", "k": 2}}
    small = job_of(KINDS["mlp"].example)
    for name, method in METHODS.items():
        yield f"method {name}", small | {"method": dict(method.example)}
    for experiment in (HessianVsGgnRequest, *(each.message for each in EXPERIMENTS.values())):
        if experiment is FigureRequest:
            continue  # see tests/contract/test_figures.py
        assert experiment.example is not None
        yield f"experiment {experiment.example['kind']}", dict(experiment.example)


JOBS = dict(jobs())
FROM_FILES = {"causal-lm", "exported"}
SECONDS = 300 + 600
"""Of a job: that of a checkpoint waits for the trial of the checkpoint, whose process loads transformers."""


@pytest.fixture(scope="module")
def uploads(server: Any) -> dict[str, str]:
    """Ids of tokens and of arrays, by the message that names them."""
    archive = io.BytesIO()
    np.savez(archive, x=np.array([[0.0, 1.0], [1.0, 0.5]]), y=np.array([[1.0], [-1.0]]))
    labels = io.BytesIO()
    np.savez(labels, x=np.array([[0.0, 1.0], [1.0, 0.5]]), y=np.array([1, 0]))
    weights = io.BytesIO()
    layers = {"layers.0.weight": np.eye(3, 2), "layers.1.weight": np.ones((1, 3))}
    np.savez(weights, **layers, **{"layers.0.bias": np.zeros(3), "layers.1.bias": np.ones(1)})
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh(), torch.nn.Linear(3, 2))
    bodies = {
        "TokenData": (np.arange(64, dtype="<u2").tobytes(), "application/octet-stream"),
        "ArrayData": (archive.getvalue(), "application/x-npz"),
        "PartsData": (archive.getvalue(), "application/x-npz"),
        "labels": (labels.getvalue(), "application/x-npz"),
        "series": (weights.getvalue(), "application/x-npz"),
        "exported": (module_program(network, torch.zeros(2, 2)), "application/vnd.pytorch.pt2"),
    }
    found = {}
    for name, (body, media_type) in bodies.items():
        answer = HTTP.post(f"{server.url}/v1/artifacts", content=body, headers={"Content-Type": media_type})
        assert answer.is_success, answer.text
        found[name] = answer.json()["id"]
    return found


@pytest.fixture(scope="module")
def schemas(server: Any) -> dict[str, Any]:
    found: dict[str, Any] = HTTP.get(f"{server.url}/openapi.json").json()["components"]["schemas"]
    return found


@pytest.mark.timeout(SECONDS)
# test_models has a job of a causal-lm, whose checkpoint takes long to be tried
@pytest.mark.parametrize("name", [long(name) if name == "model causal-lm" else name for name in JOBS])
def test_its_estimate_and_its_job_go_through(
    name: str, server: Any, client: SpectrumClient, uploads: dict[str, str]
) -> None:
    request = json.loads(json.dumps(JOBS[name]))
    if (uploaded := uploads.get(name.removeprefix("data "))) is not None:
        request["data"] |= {"parts": [uploaded]} if "parts" in request["data"] else {"id": uploaded}
    if name == "model exported":
        request["model"]["program"]["id"], request["data"]["id"] = uploads["exported"], uploads["labels"]
    if name == "experiment series":
        request["points"][0]["parameters"]["id"] = uploads["series"]
    estimated = HTTP.post(f"{server.url}/v1/estimates", json=request)
    assert estimated.status_code == 200, estimated.text
    job = client.wait(client.submit(request).id)
    assert job.state == "succeeded", job
    address = f"{server.url}/v1/jobs/{job.id}/result"
    document = HTTP.get(address).json()
    num_parameters = [each["num_parameters"] for each in document.get("curves", [document])]
    assert max(num_parameters) == estimated.json()["num_parameters"]
    assert HTTP.get(f"{address}.npz").content.startswith(b"PK")
    assert HTTP.get(f"{address}.png").content.startswith(b"\x89PNG")


@pytest.mark.parametrize("name", FAMILIES)
def test_its_closed_form_goes_through(name: str, server: Any) -> None:
    address, example = f"{server.url}/v1/closed-form", FAMILIES[name].example
    answer = HTTP.post(address, json=example)
    assert answer.status_code == 200, answer.text
    assert answer.json()["kind"] == name
    for media_type, begin in (("application/x-npz", b"PK"), ("image/png", b"\x89PNG")):
        assert HTTP.post(address, json=example, headers={"Accept": media_type}).content.startswith(begin)


def test_the_document_of_the_interface_has_every_entry(schemas: dict[str, Any]) -> None:
    messages: list[Any] = [HessianVsGgnRequest, *(kind.message for kind in EXPERIMENTS.values())]
    messages += [
        kind.message for kind in (*KINDS.values(), *FAMILIES.values(), *DATA_KINDS.values(), *METHODS.values())
    ]
    for message in messages:
        assert schemas[message.__name__]["examples"] == [message.example]
    for name, base in (("MlpActivation", ACTIVATIONS), ("ConvActivation", ACTIVATIONS)):
        assert schemas[name]["enum"] == list(base)
    by_name, by_object = schemas["SpectrumRequest"]["properties"]["loss"]["anyOf"][0]["oneOf"]
    assert by_name["enum"] == list(LOSSES)
    assert set(by_object["discriminator"]["mapping"]) == set(LOSSES)
    union = schemas["SpectrumRequest"]["properties"]["model"]["discriminator"]["mapping"]
    assert set(union) == set(KINDS)
    union = schemas["SpectrumRequest"]["properties"]["method"]["discriminator"]["mapping"]
    assert set(union) == set(METHODS)
    union = schemas["SpectrumResult"]["discriminator"]["mapping"]
    assert set(union) == set(METHODS)
    union = schemas["ClosedFormRequest"]["properties"]["model"]["discriminator"]["mapping"]
    assert set(union) == set(FAMILIES)


def test_names_in_errors_are_those_of_the_registries(server: Any) -> None:
    request = {"kind": "spectrum", "model": {"kind": "perceptron"}, "method": {"kind": "exact"}}
    said = {tuple(e["loc"]): e["msg"] for e in HTTP.post(f"{server.url}/v1/jobs", json=request).json()["errors"]}
    for kind in KINDS:
        assert f"'{kind}'" in said["body", "model", "kind"]
    request |= {"model": {"kind": "mlp", "widths": [2, 2]}, "method": {"kind": "guess"}}
    said = {tuple(e["loc"]): e["msg"] for e in HTTP.post(f"{server.url}/v1/jobs", json=request).json()["errors"]}
    for kind in METHODS:
        assert f"'{kind}'" in said["body", "method", "kind"]


def test_both_sides_have_every_entry() -> None:
    """Without torch and with it.

    The engine's tables do not list what is read from files: checkpoints of other families, programs, samples, tokens.
    """
    assert set(model_classes()) == set(KINDS) - FROM_FILES
    from_requests = {"inline", "artifact", "parts", "text"}
    assert set(dataset_functions()) == {kind.name for kind in DATA_KINDS.values()} - from_requests
    assert set(LOSS_CLASSES) == set(LOSSES)
    assert set(method_classes()) == set(method_plots()) == set(METHODS)
    assert set(experiment_plots()) == set(JOB_KINDS) - {"spectrum"}
    assert set(spectra()) == set(FAMILIES)


@pytest.mark.parametrize("name", [name for name in KINDS if name not in FROM_FILES])
def test_both_sides_have_the_same_parameters_and_sizes(name: str) -> None:
    kind = KINDS[name]
    request = SpectrumRequest.model_validate_json(json.dumps(job_of(kind.example)))
    model, data = build_model(request.model), build_dataset(request)
    shapes = kind.parameter_shapes(request.model)
    assert list(model.parameter_shapes.items()) == list(shapes.items())
    parameters = build_parameters(request.model, model, dtype=torch.float64, device=torch.device("cpu"))
    assert {each: tuple(values.shape) for each, values in parameters.items()} == shapes
    size = kind.size(request.model, num_samples(request.data), sequence_length(request.data))
    assert size.num_parameters == sum(map(prod, shapes.values()))
    assert size == model.size_on(data.inputs)
    outputs = model(parameters, data.inputs)
    assert bool(build_loss(request).total(outputs, data.targets).isfinite())


@pytest.mark.parametrize("name", FAMILIES)
def test_the_example_of_a_family_is_a_request(name: str) -> None:
    request = ClosedFormRequest.model_validate_json(json.dumps(FAMILIES[name].example))
    assert request.model.kind == name
    num_derived = FAMILIES[name].num_derived
    assert num_derived is None or num_derived(request.model, request.data.x) >= 0
