"""Networks of one shape as one network whose parameters have a leading axis of members."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor
from torch.func import vmap

from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.curvature.losses import EmpiricalRisk, Loss, Mse
from hessian_spectrum.curvature.models.base import Model, Parameters, activation_named, check_real_inputs
from hessian_spectrum.curvature.models.mlp import Mlp, parametrization_named
from hessian_spectrum.planning.size import Size, generic_size
from hessian_spectrum.quadrature.exceptions import InvalidProblemError


@dataclass(frozen=True)
class StackedMlp(Model):
    """N fully connected networks of one shape, as one model whose samples are members.

    Its parameters are those of the member with a leading axis of N, its inputs (N, n, D), and its outputs (N, n, K).

    Args:
        member: The shape of every network.
        size: N.
    """

    member: Mlp
    size: int

    @property
    def num_outputs(self) -> int:
        """Width K of the last layer."""
        return self.member.num_outputs

    @property
    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the member with a leading axis."""
        return {name: (self.size, *shape) for name, shape in self.member.parameter_shapes.items()}

    def initial_parameters(self, generator: torch.Generator, dtype: torch.dtype, device: torch.device) -> Parameters:
        """Return random parameters, one member after the other."""
        drawn = [self.member.initial_parameters(generator, dtype, device) for _ in range(self.size)]
        return stacked(drawn)

    def check_inputs(self, inputs: Tensor) -> None:
        """Check that inputs are finite real numbers (N, n, D)."""
        # the same samples may be expanded over the members
        check_real_inputs(inputs[:1] if has_one_copy(inputs) else inputs, "ensemble", "N", "n", self.member.widths[0])
        if len(inputs) != self.size:
            raise InvalidProblemError(f"inputs of {len(inputs)} networks, not {self.size}")

    def size_on(self, inputs: Tensor) -> Size:
        """Return the size, counted as numbers of each member."""
        own = self.member.size_on(inputs[0])
        numbers = sum(own.activations)
        return generic_size(self.size * own.num_parameters, self.size, numbers)

    def __call__(self, parameters: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """Return outputs (N, n, K) for inputs (N, n, D)."""
        return self.forward(parameters, inputs)[0]

    def forward(
        self, parameters: Mapping[str, Tensor], inputs: Tensor, offsets: Sequence[Tensor] | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the outputs, and the vectors by which the weights are multiplied; as `Mlp.forward`, for all members.

        Args:
            parameters: Parameters by name, with the axis of members first.
            inputs: Inputs of shape (N, n, widths[0]).
            offsets: Numbers (N, n, widths[l + 1]) that are added to the pre-activations of each layer; None for zeros.

        Returns:
            Outputs (N, n, widths[-1]), and s_l h_l (N, n, widths[l]) of each layer.
        """
        member = self.member
        activation = activation_named(member.activation, member.negative_slope)
        rule = parametrization_named(member.parametrization)
        hidden, multiplied = inputs, []
        for index, layer in enumerate(member.layers):
            (weight, bias), scale = member.layer_names(index), rule.weight_scale(layer)
            hidden = hidden if index == 0 else activation(hidden)
            multiplied.append(hidden if scale == 1 else scale * hidden)
            hidden = products(multiplied[-1], parameters[weight], is_shared=index == 0 and has_one_copy(inputs))
            hidden = hidden + parameters[bias].unsqueeze(1) if member.bias else hidden
            hidden = hidden if offsets is None else hidden + offsets[index]
        return hidden, multiplied


def products(hidden: Tensor, weight: Tensor, *, is_shared: bool) -> Tensor:
    """Return W h (N, n, fan_out) for h (N, n, fan_in) and W (N, fan_out, fan_in)."""
    if not is_shared:
        return hidden @ weight.mT
    size, fan_out, fan_in = weight.shape
    # one product with the weights of all members in place of one for each
    rows = hidden[0] @ weight.reshape(size * fan_out, fan_in).T
    return rows.view(len(rows), size, fan_out).transpose(0, 1)


def has_one_copy(inputs: Tensor) -> bool:
    """Return whether all members have the same samples, which are in memory once."""
    return len(inputs) > 1 and inputs.stride(0) == 0


def stacked(members: Sequence[Mapping[str, Tensor]]) -> Parameters:
    """Return the parameters of several networks with a leading axis of members."""
    return {name: torch.stack([member[name] for member in members]) for name in members[0]}


def selected(parameters: Mapping[str, Tensor], members: Tensor) -> Parameters:
    """Return the parameters of some members."""
    return {name: values[members] for name, values in parameters.items()}


@dataclass(frozen=True, eq=False)
class Ensemble:
    """Networks of one shape with their data.

    Attributes:
        model: The shape of every network.
        loss: Loss of the outputs of each network.
        inputs: Samples (N, n, D) of each network; the same for all, and then in memory once, if the first stride is 0.
        targets: Targets (N, n, ...), likewise.
        weight_decay: Factor d of the term (d/2) ||theta||^2 of each loss.

    Raises:
        InvalidProblemError: If data and model do not fit, or some targets do not count.
    """

    model: Mlp
    loss: Loss
    inputs: Tensor
    targets: Tensor
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        # a mean over members is one over samples only if each has as many of them
        if self.loss.weight(self.targets) != self.size * self.num_samples:
            raise InvalidProblemError("every target of an ensemble must count, and count alike")

    @classmethod
    def of(cls, model: Mlp, loss: Loss, data: Sequence[Dataset], *, weight_decay: float = 0.0) -> "Ensemble":
        """Return the ensemble of networks with these data, one set for each; sets that are one object are not copied.

        Args:
            model: The shape of every network.
            loss: Loss of the outputs.
            data: Samples of each network, as many for each.
            weight_decay: Factor of the penalty.
        """
        first = data[0]
        if all(each is first for each in data):
            inputs = first.inputs.expand(len(data), *first.inputs.shape)
            return cls(model, loss, inputs, first.targets.expand(len(data), *first.targets.shape), weight_decay)
        inputs = torch.stack([each.inputs for each in data])
        return cls(model, loss, inputs, torch.stack([each.targets for each in data]), weight_decay)

    @property
    def size(self) -> int:
        """Number N of members."""
        return len(self.inputs)

    @property
    def num_samples(self) -> int:
        """Number n of samples of each member."""
        return self.inputs.shape[1]

    @property
    def has_shared_data(self) -> bool:
        """Whether all members have the same samples."""
        return self.size == 1 or (has_one_copy(self.inputs) and self.targets.stride(0) == 0)

    @property
    def stack(self) -> StackedMlp:
        """The model of all members."""
        return StackedMlp(self.model, self.size)

    def take(self, members: Tensor | Sequence[int]) -> "Ensemble":
        """Return the ensemble of some members."""
        members = torch.as_tensor(members)
        if self.has_shared_data and self.size > 1:
            count = len(members)
            inputs, targets = (each[0].expand(count, *each.shape[1:]) for each in (self.inputs, self.targets))
            return replace(self, inputs=inputs, targets=targets)
        members = members.to(self.inputs.device)
        return replace(self, inputs=self.inputs[members], targets=self.targets[members])

    def risk(self, micro_batch_size: int | None = None) -> EmpiricalRisk:
        """Return the mean of the losses of all members, over micro-batches of so many samples of each."""
        size = micro_batch_size or self.num_samples
        parts = zip(torch.split(self.inputs, size, dim=1), torch.split(self.targets, size, dim=1), strict=True)
        return EmpiricalRisk(self.stack, self.loss, [Dataset(*part) for part in parts])

    def losses(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Return the loss of each member (N,), with the penalty, in float64."""
        with torch.no_grad():
            outputs = self.stack(parameters, self.inputs)
            means = totals(self.loss, outputs, self.targets).double() / self.num_samples
            return means + penalties(parameters, self.weight_decay) if self.weight_decay else means

    @property
    def is_linear(self) -> bool:
        """Whether outputs are linear in the inputs, and losses squared errors: n samples then act like D others."""
        hidden_are_linear = self.model.activation == "linear" or len(self.model.widths) == 2
        is_mse = type(self.loss) is Mse and self.targets.is_floating_point()
        return hidden_are_linear and is_mse and not self.model.bias

    def compressed(self) -> "Ensemble":
        """Return an ensemble with as many samples as inputs have entries, and the same gradients and Hessians.

        With X = Q R (n, D) the loss of a network f(x) = M x is that of the samples R and Q^T Y, and a constant:
        ||X M^T - Y||^2 = ||R M^T - Q^T Y||^2 + ||Y - Q Q^T Y||^2.

        Returns:
            The ensemble; itself unless networks are linear and have more samples than inputs have entries.
        """
        dim, count = self.inputs.shape[2], self.num_samples
        if not self.is_linear or count <= dim:
            return self
        own = (self.inputs[:1], self.targets[:1]) if self.has_shared_data else (self.inputs, self.targets)
        basis, inputs = torch.linalg.qr(own[0].double())
        scale = (dim / count) ** 0.5
        targets = basis.mT @ own[1].double()
        pair = ((scale * each).to(self.inputs.dtype) for each in (inputs, targets))
        inputs, targets = (each.expand(self.size, *each.shape[1:]) for each in pair)
        return replace(self, inputs=inputs, targets=targets)


def totals(loss: Loss, outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the sum of the terms of each member (N,), for outputs (N, n, K)."""
    result: Tensor = vmap(loss.total)(outputs, targets)
    return result


def penalties(parameters: Mapping[str, Tensor], weight_decay: float) -> Tensor:
    """Return (d/2) ||theta||^2 of each member (N,), in float64."""
    squares = [values.detach().flatten(1).double().square().sum(dim=1) for values in parameters.values()]
    return weight_decay / 2 * torch.stack(squares).sum(dim=0)


def num_multiplications(widths: Sequence[int]) -> int:
    """Return the number of weights, by which the cost of a sample is counted."""
    return sum(fan_in * fan_out for fan_in, fan_out in pairwise(widths))
