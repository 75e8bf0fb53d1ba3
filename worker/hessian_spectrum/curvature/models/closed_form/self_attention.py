"""Self-attention on sequences of scalars."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from hessian_spectrum.curvature.models.attention_layer import AttentionLayer
from hessian_spectrum.curvature.models.closed_form.base import ClosedFormNetwork
from hessian_spectrum.planning.size import Size


@dataclass(frozen=True)
class SelfAttention(ClosedFormNetwork):
    """`AttentionLayer` with embedding and value dimension 1, and the parameter names of its formula.

    Args:
        key_dim: D_K; sink_bias.
        activation: One of `SCORE_ACTIVATIONS`.
    Parameters:  "w_v" (), "w_q" and "w_k" (d_K,).

    Raises:
        InvalidProblemError: As `AttentionLayer`.

    References:
        Cracking the Hessian, section 3.3.
    """

    key_dim: int
    sink_bias: float = 0.0
    activation: str = "softmax"
    layer: AttentionLayer = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # the way to set a field of a frozen dataclass that follows from the others
        object.__setattr__(
            self, "layer", AttentionLayer(1, self.key_dim, 1, sink_bias=self.sink_bias, activation=self.activation)
        )

    @property
    def num_outputs(self) -> int:
        """One."""
        return 1

    @property
    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Value, query, key."""
        return {"w_v": (), "w_q": (self.key_dim,), "w_k": (self.key_dim,)}

    def check_inputs(self, inputs: Tensor) -> None:
        """Inputs are sequences (n, L, 1), floating point and finite."""
        self.layer.check_inputs(inputs)

    def size_on(self, inputs: Tensor) -> Size:
        """As the layer's."""
        return self.layer.size_on(inputs)

    def __call__(self, parameters: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """Outputs (n, L, 1) for sequences (n, L, 1)."""
        matrices = {name: parameters[name.lower()].reshape(1, -1) for name in ("W_V", "W_Q", "W_K")}
        return self.layer(matrices, inputs)


MODELS = {"self-attention": SelfAttention}
