"""Networks of requests with one shape as an ensemble, and its training."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch

from hessian_spectrum.api_schemas.data.digits import DigitsData
from hessian_spectrum.api_schemas.data.gaussian import GaussianData
from hessian_spectrum.api_schemas.data.samples import InlineData
from hessian_spectrum.api_schemas.models.mlp import Mlp as MlpSpec
from hessian_spectrum.api_schemas.spectrum import SpectrumRequest
from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.curvature.ensembles.stack import Ensemble, stacked
from hessian_spectrum.curvature.ensembles.training import EnsembleTraining, TrainedEnsemble
from hessian_spectrum.curvature.iteration import NO_CHECKPOINTS, Checkpointer, Progress, ignore_progress, run
from hessian_spectrum.curvature.models.base import Parameters
from hessian_spectrum.curvature.models.mlp import Mlp
from hessian_spectrum.worker.builders import (
    NO_INPUTS,
    PRECISIONS,
    Inputs,
    build_dataset,
    build_loss,
    build_model,
    build_parameters,
    build_plan,
    generator_of,
)

_OWN_FIELDS = {"seed", "tags", "shared", "webhook", "time_limit_seconds"}
"""Fields of a request in which members of an ensemble may differ."""


@dataclass(frozen=True, eq=False)
class EnsembleStart:
    """Networks, data and parameters before training."""

    ensemble: Ensemble
    parameters: Parameters  # (N, *shape)


def shape_key(request: SpectrumRequest) -> Hashable | None:
    """Return a key that is equal for requests that can be computed together; None if a request cannot be stacked.

    Members may differ in seeds, in learning rates, and in the numbers of their data and weights.

    Args:
        request: The request.

    Returns:
        The key.
    """
    if not isinstance(request.model, MlpSpec) or not isinstance(request.data, GaussianData | DigitsData | InlineData):
        return None
    if request.blocks is not None or request.preconditioner is not None:
        return None
    if request.product_precision not in PRECISIONS:
        return None
    given = request.model.weights
    if given is not None and not isinstance(given, list):
        return None
    document = request.canonical().model_dump(mode="json", exclude=_OWN_FIELDS | {"model", "data", "train"})
    return (_frozen(document), _model_key(request.model), _data_key(request.data), _training_key(request))


def prepare_ensemble(
    requests: Sequence[SpectrumRequest], *, device: torch.device, inputs: Inputs = NO_INPUTS
) -> EnsembleStart:
    """Build the networks of requests with one `shape_key`, their data and their initial parameters.

    Args:
        requests: The requests.
        device: Device of the numbers.
        inputs: Uploaded files.

    Returns:
        The ensemble. Data that several requests have in common are drawn once, and in memory once if all have them.

    Raises:
        InvalidProblemError: If data do not fit, or some of the targets do not count.
    """
    first = requests[0]
    dtype = PRECISIONS[first.vector_precision]
    datasets: dict[str, Dataset] = {}
    for request in requests:
        key = _dataset_key(request, first)
        if key not in datasets:
            datasets[key] = build_dataset(request, inputs).to(dtype, device)
    model = build_model(first.model, inputs)
    assert isinstance(model, Mlp), "requests have a key only for these"
    data = [datasets[_dataset_key(request, first)] for request in requests]
    ensemble = Ensemble.of(model, build_loss(first), data, weight_decay=first.weight_decay or 0.0)
    members = [build_parameters(each.model, model, dtype=dtype, device=device, sources=inputs) for each in requests]
    return EnsembleStart(ensemble, stacked(members))


def train_ensemble(
    requests: Sequence[SpectrumRequest],
    start: EnsembleStart,
    *,
    progress: Progress = ignore_progress,
    checkpointer: Checkpointer = NO_CHECKPOINTS,
) -> TrainedEnsemble:
    """Train all members, each with its own learning rate and order of samples.

    Args:
        requests: The requests, all with training.
        start: Their networks and data.
        progress: Called after every step.
        checkpointer: Saves the states of training.

    Returns:
        The trained parameters; members that diverged are among its failures.
    """
    trainings = [request.train for request in requests if request.train is not None]
    seeds = [each.seed for each in trainings]
    training = EnsembleTraining(
        start.ensemble,
        build_plan(trainings[0]),
        learning_rates=[each.learning_rate for each in trainings],
        seeds=seeds,
        generators=[generator_of(seed) for seed in dict.fromkeys(seeds)],
    )
    return run(training, start.parameters, generator=torch.Generator(), progress=progress, checkpointer=checkpointer)


def _model_key(model: MlpSpec) -> Hashable:
    return (tuple(model.layer_widths), model.activation, model.negative_slope, model.has_bias, model.parametrization)


def _data_key(data: GaussianData | DigitsData | InlineData) -> Hashable:
    if isinstance(data, InlineData):
        return ("inline", *(_numbers_key(getattr(data, name)) for name in type(data).model_fields))
    return _frozen(data.model_dump(mode="json", exclude={"seed", "input_std", "noise"}))


def _numbers_key(values: object) -> Hashable:
    """Return shape and type of numbers, which may differ from member to member."""
    tensor = torch.as_tensor(values) if not isinstance(values, str | None) else None
    return values if tensor is None else (tuple(tensor.shape), tensor.is_floating_point())


def _training_key(request: SpectrumRequest) -> Hashable:
    train = request.train
    return None if train is None else _frozen(train.model_dump(mode="json", exclude={"seed", "learning_rate"}))


def _dataset_key(request: SpectrumRequest, first: SpectrumRequest) -> str:
    """Return a key of the data of a request, equal for those that equal the first request's."""
    assert request.data is not None
    if request.data == first.data:
        return "first"
    return f"{id(request.data)}" if isinstance(request.data, InlineData) else request.data.model_dump_json()


def _frozen(value: object) -> Hashable:
    if isinstance(value, dict):
        return tuple((key, _frozen(each)) for key, each in value.items())
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
