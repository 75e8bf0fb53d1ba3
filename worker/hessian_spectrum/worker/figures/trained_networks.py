"""Many networks of one shape, trained together, with sharpness, trace and norms of their weights at both ends."""

from collections.abc import Mapping, Sequence
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from hessian_spectrum.api_schemas.figures.correlations import Activation, Parametrization, TrainedNetworks
from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.curvature.data.gaussian import gaussian
from hessian_spectrum.curvature.ensembles.eigenvalues import top_eigenvalues, traces
from hessian_spectrum.curvature.ensembles.matrix_norms import (
    absolute_alignments,
    matrix_norms,
    products_without_one,
)
from hessian_spectrum.curvature.ensembles.operators import EnsembleOperator
from hessian_spectrum.curvature.ensembles.stack import Ensemble, stacked
from hessian_spectrum.curvature.ensembles.training import EnsembleTraining, TrainedEnsemble
from hessian_spectrum.curvature.iteration import run
from hessian_spectrum.curvature.models.base import Parameters
from hessian_spectrum.curvature.models.mlp import Mlp
from hessian_spectrum.curvature.operators.products import Matrix
from hessian_spectrum.curvature.regression_losses import Mse
from hessian_spectrum.curvature.training.plan import Plateau, TrainingPlan
from hessian_spectrum.worker.builders import generator_of
from hessian_spectrum.worker.figures.measurement import Context, Measured

WEIGHTS, DATA, TEACHER, ORDER, START = 1, 2, 3, 4, 5
"""Purposes of the random numbers of a network."""

_ACTIVATIONS, _PARAMETRIZATIONS = get_args(Activation), get_args(Parametrization)

DTYPE = torch.float32

TOLERANCE = 1e-4
"""Largest residual of an eigenvalue, relative to it; its error is much smaller than the residual."""

Arrays = dict[str, np.ndarray]


def measure_networks(measurement: TrainedNetworks, context: Context) -> Measured:
    """Train networks, and measure them before and after.

    Args:
        measurement: The networks.
        context: Progress and checkpoints.

    Returns:
        Arrays (num_networks,), those of the two ends with `initial_` and `trained_` before their names: sharpness;
        loss; norms of each weight matrix (`<norm>_<layer>`) and of the product of the others
        (`<norm>_without_<layer>`), layers counted from 1; of two-layer networks the alignments of the two
        (`<norm>_alignment`), and, if they are linear, trace and largest eigenvalue of the Gauss-Newton matrix (`ggn`).
        `diverged` is 1 where training failed.
    """
    ensemble, parameters = initial_ensemble(measurement)
    job = context.job
    first = job.stage("initial")
    if first.value is None:
        first.finish(_tensors(_statistics(measurement, ensemble, parameters, context)))
    stage = job.stage("training")
    if stage.value is None:
        training = training_of(measurement, ensemble)
        trained = run(training, parameters, generator=torch.Generator(), progress=context.progress, checkpointer=stage)
        stage.finish(trained)
    outcome: TrainedEnsemble = stage.value
    diverged = np.zeros(ensemble.size)
    diverged[list(outcome.failures)] = 1
    last = _statistics(measurement, ensemble, _without_nan(outcome), context)
    arrays = {f"initial_{name}": each.numpy() for name, each in first.value.items()}
    arrays |= {f"trained_{name}": each for name, each in last.items()}
    counts = {"num_steps": outcome.num_steps.numpy(), "has_plateaued": outcome.has_plateaued.numpy().astype(float)}
    values = {"num_parameters": measurement.num_parameters, "num_diverged": len(outcome.failures)}
    return Measured(values, arrays | counts | {"diverged": diverged})


def model_of(measurement: TrainedNetworks) -> Mlp:
    """Return the network of a measurement."""
    widths = (measurement.dim, *[measurement.width] * (measurement.depth - 1), measurement.dim)
    name: str = measurement.parametrization
    if name == "mup" and measurement.training.mup_rates == "fan-in":
        name = "mup-fan-in"
    return Mlp(widths, measurement.activation, False, parametrization=name)


def point_generator(measurement: TrainedNetworks, purpose: int, index: int) -> torch.Generator:
    """Make a generator for a network.

    Args:
        measurement: The networks. Those of other shapes and parametrizations have other numbers, so that points of a
            figure are independent; under another choice of training, the same networks have the same numbers.
        purpose: What the numbers are for.
        index: Index of the network, or 0 for what all of them share.

    Returns:
        The generator in its first state.
    """
    kinds = _ACTIVATIONS.index(measurement.activation), _PARAMETRIZATIONS.index(measurement.parametrization)
    shape = measurement.depth, measurement.width, measurement.dim
    return generator_of(measurement.seed, purpose, index, *kinds, *shape)


def initial_ensemble(measurement: TrainedNetworks) -> tuple[Ensemble, Parameters]:
    """Draw data and weights, each network's from generators of its own.

    Args:
        measurement: The networks.

    Returns:
        The networks with their data, and their weights (num_networks, *shape).
    """
    model, indices = model_of(measurement), range(measurement.num_networks)
    if measurement.training.shared_data == "all":
        data = [data_set(measurement, 0)] * measurement.num_networks
    else:
        data = [data_set(measurement, index) for index in indices]
    device = torch.device("cpu")
    weights = [
        model.initial_parameters(point_generator(measurement, WEIGHTS, index), DTYPE, device) for index in indices
    ]
    return Ensemble.of(model, Mse(), data), stacked(weights)


def data_set(measurement: TrainedNetworks, index: int) -> Dataset:
    """Draw the samples of a network."""
    training = measurement.training
    own_teacher = index if training.shared_data == "none" else 0
    data = gaussian(
        training.num_samples,
        measurement.dim,
        measurement.dim,
        teacher=measurement.activation,
        noise=training.noise,
        teacher_scale=training.teacher_scale,
        generator=point_generator(measurement, DATA, index),
        teacher_generator=point_generator(measurement, TEACHER, own_teacher),
    )
    return data.to(DTYPE, torch.device("cpu"))


def training_of(measurement: TrainedNetworks, ensemble: Ensemble) -> EnsembleTraining:
    """Return the training of all networks: SGD whose rate is cut to a tenth at plateaus, down to the smallest."""
    training = measurement.training
    # the gradient of the mean of squared errors over outputs is 2/D times that of half their sum
    factor = 1.0 if training.reduction == "half-sum" else 2 / measurement.dim
    steps_per_epoch = -(-training.num_samples // training.batch_size)
    schedule = Plateau(
        factor=0.1,
        patience=training.patience,
        threshold=training.threshold,
        min_learning_rate=factor * min(training.min_learning_rate, measurement.learning_rate),
    )
    plan = TrainingPlan(
        num_steps=training.max_epochs * steps_per_epoch,
        learning_rate=factor * measurement.learning_rate,
        batch_size=training.batch_size,
        schedule=schedule,
    )
    shares = training.shared_data == "all"
    seeds = [0 if shares else index for index in range(ensemble.size)]
    return EnsembleTraining(
        ensemble,
        plan,
        learning_rates=[plan.learning_rate] * ensemble.size,
        seeds=seeds,
        generators=[point_generator(measurement, ORDER, seed) for seed in dict.fromkeys(seeds)],
    )


def weight_statistics(weights: Sequence[Tensor]) -> Arrays:
    """Compute the norms of weight matrices, of products that leave one out, and alignments.

    Args:
        weights: Stacks of the matrices (N, n_b, n_{b-1}), first layer first.

    Returns:
        Norms `<norm>_<layer>` and `<norm>_without_<layer>` (N,), and of two layers `<norm>_alignment` (N,).
    """
    matrices = [weight.double() for weight in weights]
    found: Arrays = {}
    for layer, matrix in enumerate(matrices, 1):
        found |= {f"{name}_{layer}": norm.numpy() for name, norm in matrix_norms(matrix).items()}
    for layer, product in enumerate(products_without_one(matrices), 1):
        found |= {f"{name}_without_{layer}": norm.numpy() for name, norm in matrix_norms(product).items()}
    if len(matrices) == 2:
        first, last = matrices
        alignments = absolute_alignments(first, last.mT)
        found |= {f"{name}_alignment": value.numpy() for name, value in alignments.items()}
    return found


def _statistics(
    measurement: TrainedNetworks, ensemble: Ensemble, parameters: Mapping[str, Tensor], context: Context
) -> Arrays:
    small, found = ensemble.compressed(), weight_statistics(list(parameters.values()))
    found["loss"] = ensemble.losses(parameters).numpy()
    matrices: dict[str, Matrix] = {"sharpness": "hessian"}
    if measurement.has_trace:
        found["trace"] = traces(small, parameters).numpy()
        matrices["ggn"] = "ggn"
    for name, matrix in matrices.items():
        context.progress("largest eigenvalues", 0, 1)
        generators = [point_generator(measurement, START, index) for index in range(ensemble.size)]
        operator = EnsembleOperator(small, parameters, matrix=matrix)
        found[name] = top_eigenvalues(operator, generators=generators, tolerance=TOLERANCE).values.numpy()
    return found


def _without_nan(outcome: TrainedEnsemble) -> Parameters:
    """Return the weights, with zeros for networks that diverged, which are left out of the correlations."""
    weights = {name: values.clone() for name, values in outcome.parameters.items()}
    for member in outcome.failures:
        for values in weights.values():
            values[member] = 0
    return weights


def _tensors(arrays: Arrays) -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.asarray(array)) for name, array in arrays.items()}


MEASUREMENTS = {TrainedNetworks: measure_networks}
