"""What a worker makes sure of before a job computes: that its checkpoints were tried, and how products are computed."""

from collections.abc import Callable
from dataclasses import replace

from hessian_spectrum.api_schemas.checkpoints import CheckpointError, CheckpointVerdict
from hessian_spectrum.api_schemas.job_requests import AnyJobRequest
from hessian_spectrum.api_schemas.models import CausalLm, Gpt2
from hessian_spectrum.api_schemas.spectrum import SpectrumRequest
from hessian_spectrum.checkpoints.causal_lm import causal_lm_fields
from hessian_spectrum.checkpoints.directory import ModelsDirectory
from hessian_spectrum.curvature.operators.products import Fallback
from hessian_spectrum.worker.checkpoints import CHANGED
from hessian_spectrum.worker.hardware import Hardware
from hessian_spectrum.worker.sources import Sources


def checked_request(
    request: AnyJobRequest, sources: Sources, memory_bytes: int | None, look: Callable[[], object]
) -> tuple[AnyJobRequest, Sources]:
    """The request with what transformers makes of its checkpoints, and the sources with how products are computed.

    Args:
        memory_bytes: that the trial of a checkpoint may take.
        look: called several times a second while a checkpoint is tried; what it raises ends the trial.

    Raises:
        CheckpointError: If a checkpoint is refused.
    """
    fallbacks: list[Fallback] = []
    models = [request.model] if isinstance(request, SpectrumRequest) else request.models
    for model in models if sources.check is not None else ():
        if not isinstance(model, Gpt2 | CausalLm) or model.checkpoint is None or model.checkpoint_sha256 is None:
            continue
        assert sources.check is not None
        verdict = sources.check.checked(model.checkpoint, model.checkpoint_sha256, model.kind, memory_bytes, look)
        if verdict.state == "refused":
            raise CheckpointError(verdict.reason or "a worker could not load it")
        if verdict.fallback_method is not None:
            fallbacks.append(Fallback(verdict.fallback_method, verdict.fallback_reason or ""))
        if isinstance(model, CausalLm) and isinstance(request, SpectrumRequest):
            request = request.model_copy(update={"model": _as_found(model, verdict, sources.models)})
    return request, replace(sources, fallback=fallbacks[0]) if fallbacks else sources


def after_crash(sources: Sources, crashed_by: str | None) -> Sources:
    """The sources of an attempt after one whose process died of this signal: products are not recorded again."""
    if crashed_by is None or sources.fallback is not None:
        return sources
    reason = f"a process that computed this job with recorded products died of {crashed_by}"
    return replace(sources, fallback=Fallback("forward-over-reverse", reason))


def signature_with(hardware: Hardware, fallback: Fallback | None) -> str:
    """What two runs must share to round alike, with the way in which products are computed."""
    return hardware.numerics_fingerprint(None if fallback is None else fallback.method)


def _as_found(model: CausalLm, verdict: CheckpointVerdict, models: ModelsDirectory) -> CausalLm:
    """The model as the library has it, which config.json alone may not have said when the job was accepted."""
    if verdict.sizes is None:
        return model
    checkpoint = models.open(model.checkpoint)
    found = causal_lm_fields(checkpoint, verdict.sizes)
    if found.checkpoint_sha256 != model.checkpoint_sha256:
        raise CheckpointError(CHANGED)
    return model.model_copy(update=found.model_dump())
