"""Layer and instance norms written with elementary operations. Importing this module loads torch."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.overrides import TorchFunctionMode


class ExactNorms(TorchFunctionMode):
    """Context in which derivatives of layer and instance norms are correct in every order.

    PyTorch 2.13 computes the first and second derivatives correctly. In third derivatives it treats the mean and the
    variance as constants and reports no error. The gradient of a physics-informed loss is a third derivative if the
    loss contains second derivatives with respect to the inputs.
    """

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call the function, or its replacement."""
        return _WRITTEN_OUT.get(function, function)(*args, **(kwargs or {}))


def _layer_norm(
    x: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Tensor:
    result = _standardised(x, range(-len(normalized_shape), 0), eps)
    result = result if weight is None else result * weight
    return result if bias is None else result + bias


def _instance_norm(
    x: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if not use_input_stats:
        return F.instance_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
    result, sizes = _standardised(x, range(2, x.ndim), eps), [-1, *[1] * (x.ndim - 2)]
    result = result if weight is None else result * weight.view(sizes)
    return result if bias is None else result + bias.view(sizes)


def _standardised(x: Tensor, axes: Sequence[int], eps: float) -> Tensor:
    centred = x - x.mean(list(axes), keepdim=True)
    return centred / (centred.square().mean(list(axes), keepdim=True) + eps).sqrt()


_WRITTEN_OUT: dict[Callable[..., Any], Callable[..., Any]] = {
    F.layer_norm: _layer_norm,
    torch.layer_norm: _layer_norm,
    F.instance_norm: _instance_norm,
}
