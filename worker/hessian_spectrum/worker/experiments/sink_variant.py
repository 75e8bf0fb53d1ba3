"""Attention sinks of a request, put into the model at the parameters where its spectrum is taken."""

from collections.abc import Sequence
from dataclasses import replace

from hessian_spectrum.api_schemas.models import AttentionSink as SinkSpec
from hessian_spectrum.api_schemas.models import Gpt2 as Gpt2Spec
from hessian_spectrum.api_schemas.models import Model as ModelSpec
from hessian_spectrum.api_schemas.spectrum_results import SinkReport, SinkScore
from hessian_spectrum.curvature.attention_sinks import sink_scores, sink_with_mean_score
from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.curvature.models.base import Model, Parameters
from hessian_spectrum.curvature.models.gpt2 import AttentionSink, Gpt2


def with_sink(
    spec: ModelSpec, model: Model, parameters: Parameters, batches: Sequence[Dataset]
) -> tuple[Model, SinkReport | None]:
    """The model with its one sink, if there is one, whose bias is solved for if need be; and what it does.

    Raises:
        InvalidProblemError: If no bias reaches the mean score.
    """
    if not (isinstance(model, Gpt2) and isinstance(spec, Gpt2Spec) and spec.attention_sink is not None):
        return model, None
    sink = _solved(spec.attention_sink, model, parameters, batches)
    before = sink_scores(model, parameters, batches, sink=replace(sink, bias=0.0))
    after = sink_scores(model, parameters, batches, sink=sink)
    by_block = zip(after.blocks, before.by_block, after.by_block, strict=True)
    report = SinkReport(
        bias=sink.bias,
        heads=list(sink.heads),
        mean_score_before=before.mean,
        mean_score_after=after.mean,
        blocks=[SinkScore(block=block, before=old, after=new) for block, old, new in by_block],
    )
    return replace(model, sink=sink), report


def _solved(spec: SinkSpec, model: Gpt2, parameters: Parameters, batches: Sequence[Dataset]) -> AttentionSink:
    blocks = None if spec.blocks is None else tuple(spec.blocks)
    if isinstance(spec.mean_score, float):
        return sink_with_mean_score(
            model, parameters, batches, sink=AttentionSink(0.0, tuple(spec.heads), blocks), mean_score=spec.mean_score
        )
    assert isinstance(spec.bias, float)
    return AttentionSink(spec.bias, tuple(spec.heads), blocks)
