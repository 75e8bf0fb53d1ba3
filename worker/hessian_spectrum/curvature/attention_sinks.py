"""Attention sinks of a given strength: the bias on the first token's scores that yields a given mean attention."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.curvature.models.gpt2 import AttentionSink, Gpt2
from hessian_spectrum.quadrature.exceptions import InvalidProblemError, NonFiniteError

MAX_BIAS = 1024.0
"""Largest bias; beyond it softmax is 0 or 1 for all scores of trained networks."""

SCORE_TOLERANCE = 1e-6
"""Largest accepted error of the mean score; float32 forward passes are not more accurate."""

BIAS_TOLERANCE = 1e-9
"""Width of the bracket at which the search ends even if the mean score jumps there by more than its tolerance."""


@dataclass(frozen=True)
class SinkScores:
    """Attention to the first token, as a mean over sequences, queries and the sink's heads, from 0 to 1."""

    blocks: tuple[int, ...]
    by_block: tuple[float, ...]  # mean score of each of `blocks`

    @property
    def mean(self) -> float:
        """Mean over the blocks."""
        return sum(self.by_block) / len(self.by_block)


def sink_scores(
    model: Gpt2, parameters: Mapping[str, Tensor], batches: Sequence[Dataset], *, sink: AttentionSink
) -> SinkScores:
    """Return the attention that the sink's heads pay to the first token, in a model with this sink.

    The mean includes all queries, also the first one, whose only key is the first token.

    Args:
        model: Model to run.
        parameters: Parameters of the model, by name.
        batches: Data in micro-batches.
        sink: Sink that is inserted, with its heads, blocks and bias.

    Returns:
        Mean scores of each block that has the sink.

    Raises:
        NonFiniteError: If a score is NaN or infinite.
    """
    with_sink = replace(model, sink=sink)
    with torch.no_grad():
        scores = [with_sink.first_token_scores(parameters, batch.inputs).double() * len(batch) for batch in batches]
    mean = torch.stack(scores).sum(0) / sum(len(batch) for batch in batches)
    blocks = tuple(range(model.n_layer)) if sink.blocks is None else sink.blocks
    chosen = mean[list(blocks)][:, list(sink.heads)].mean(1)
    if not bool(chosen.isfinite().all()):
        raise NonFiniteError("attention scores are NaN or infinite at these parameters")
    return SinkScores(blocks, tuple(chosen.tolist()))


def sink_with_mean_score(
    model: Gpt2,
    parameters: Mapping[str, Tensor],
    batches: Sequence[Dataset],
    *,
    sink: AttentionSink,
    mean_score: float,
) -> AttentionSink:
    """Return the sink's heads and blocks with the bias that makes their mean score equal to `mean_score`.

    The bias is bracketed by doubling and then computed by Brent's method, to `SCORE_TOLERANCE` in the score. If deeper
    blocks make the mean score fall as the bias grows, there may be several solutions; the result is one of them.

    Args:
        model: Model to run.
        parameters: Parameters of the model, by name.
        batches: Data in micro-batches.
        sink: Sink whose heads and blocks are used; its bias is ignored.
        mean_score: Requested mean over the blocks, from 0 to 1.

    Returns:
        The sink with the bias.

    Raises:
        InvalidProblemError: If no bias reaches the score.
        NonFiniteError: If a score is NaN or infinite.
    """
    from scipy.optimize import brentq  # noqa: PLC0415 - 30 MB that no other job needs

    def excess(bias: float) -> float:
        difference = sink_scores(model, parameters, batches, sink=replace(sink, bias=bias)).mean - mean_score
        return 0.0 if abs(difference) <= SCORE_TOLERANCE else difference

    at_zero = excess(0.0)
    if at_zero == 0:
        return replace(sink, bias=0.0)
    near, far = 0.0, 1.0 if at_zero < 0 else -1.0
    while (difference := excess(far)) * at_zero > 0:
        if abs(far) >= MAX_BIAS:
            message = f"no bias gives a mean score of {mean_score:g}: with {far:g} it is {difference + mean_score:.6g}"
            raise InvalidProblemError(f"attention_sink.mean_score: {message}")
        near, far = far, 2 * far
    return replace(sink, bias=float(brentq(excess, min(near, far), max(near, far), xtol=BIAS_TOLERANCE)))
