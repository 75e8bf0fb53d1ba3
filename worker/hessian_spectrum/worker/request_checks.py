"""What a worker makes sure of before a job computes: that its checkpoints were tried, and how products are computed."""

from collections.abc import Callable
from dataclasses import replace

from hessian_spectrum.api_schemas.checkpoints import CheckpointError, CheckpointVerdict
from hessian_spectrum.api_schemas.jobs import AnyJobRequest
from hessian_spectrum.api_schemas.models import CausalLm, Gpt2
from hessian_spectrum.api_schemas.spectrum import SpectrumRequest
from hessian_spectrum.checkpoints.causal_lm import causal_lm_fields
from hessian_spectrum.checkpoints.directory import ModelsDirectory
from hessian_spectrum.curvature.operators.products import Fallback
from hessian_spectrum.worker.checkpoints import CHANGED
from hessian_spectrum.worker.hardware import Hardware
from hessian_spectrum.worker.inputs import Inputs


def checked_request(
    request: AnyJobRequest, inputs: Inputs, *, memory_bytes: int | None, look: Callable[[], object]
) -> tuple[AnyJobRequest, Inputs]:
    """Return the request with what transformers makes of its checkpoints, and how products are to be computed.

    Args:
        request: What is asked.
        inputs: Where checkpoints are found, and what tries them.
        memory_bytes: Memory that the trial of a checkpoint may take.
        look: Called several times a second while a checkpoint is tried; what it raises ends the trial.

    Raises:
        CheckpointError: If a checkpoint is refused.
    """
    fallbacks: list[Fallback] = []
    models = [request.model] if isinstance(request, SpectrumRequest) else request.models
    for model in models if inputs.check is not None else ():
        if not isinstance(model, Gpt2 | CausalLm) or model.checkpoint is None or model.checkpoint_sha256 is None:
            continue
        assert inputs.check is not None
        verdict = inputs.check.checked(model.checkpoint, model.checkpoint_sha256, model.kind, memory_bytes, look)
        if verdict.state == "refused":
            raise CheckpointError(verdict.reason or "a worker could not load it")
        if verdict.fallback_method is not None:
            fallbacks.append(Fallback(verdict.fallback_method, verdict.fallback_reason or ""))
        if isinstance(model, CausalLm) and isinstance(request, SpectrumRequest):
            request = request.model_copy(update={"model": _as_found(model, verdict, inputs.models)})
    return request, replace(inputs, fallback=fallbacks[0]) if fallbacks else inputs


def after_crash(inputs: Inputs, crashed_by: str | None) -> Inputs:
    """Return the inputs of an attempt after one whose process died of this signal: products are not recorded."""
    if crashed_by is None or inputs.fallback is not None:
        return inputs
    reason = f"a process that computed this job with recorded products died of {crashed_by}"
    return replace(inputs, fallback=Fallback("forward-over-reverse", reason))


def fingerprint_with(hardware: Hardware, fallback: Fallback | None) -> str:
    """Return what two runs must share to round alike, with the way in which products are computed."""
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
