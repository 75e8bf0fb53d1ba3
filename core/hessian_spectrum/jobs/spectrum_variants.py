"""The single spectra that a request for several asks for, each as a request of its own."""

from hessian_spectrum.api_schemas.hessian_vs_ggn import ComparedMatrix, HessianVsGgnRequest
from hessian_spectrum.api_schemas.methods import TopKMethod
from hessian_spectrum.api_schemas.models import Gpt2
from hessian_spectrum.api_schemas.spectrum import SpectrumRequest


def spectrum_variants(request: SpectrumRequest) -> list[SpectrumRequest]:
    """Return a request for each spectrum: for every attention sink, if there are several, one for every block."""
    return [variant for with_sink in sink_variants(request) for variant in block_variants(with_sink)]


def sink_variants(request: SpectrumRequest) -> list[SpectrumRequest]:
    """Return a request for each attention sink, in their order; the request itself where there are not several."""
    sink = request.model.attention_sink if isinstance(request.model, Gpt2) else None
    if sink is None or not request.varies_sink:
        return [request]
    models = [request.model.model_copy(update={"attention_sink": each}) for each in sink.variants]
    return [request.model_copy(update={"model": model}) for model in models]


def block_variants(request: SpectrumRequest) -> list[SpectrumRequest]:
    """Return a request for each block, in their order; the request itself where there are not several."""
    if request.blocks is None:
        return [request]
    variants = [request.model_copy(update={"block": block, "blocks": None}) for block in request.blocks]
    for variant, dim in zip(variants, request.block_dims, strict=True):
        variant.__dict__["dims"] = (dim,)  # names are not looked through again for each of them
    return variants


def eigenvalue_request(request: HessianVsGgnRequest, model: Gpt2, matrix: ComparedMatrix) -> SpectrumRequest:
    """Return the request that finds one eigenvalue of one point of a comparison."""
    method = TopKMethod(
        kind="top-k",
        k=1,
        tolerance=request.tolerance,
        absolute_tolerance=request.absolute_tolerance,
        max_products=request.max_products,
        eigenvectors=False,
    )
    return SpectrumRequest(
        kind="spectrum",
        model=model,
        data=request.data,
        loss=request.loss,
        matrix=matrix,
        method=method,
        precision=request.precision,
    )
