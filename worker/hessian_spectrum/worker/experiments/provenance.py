"""Where a result's numbers come from."""

import hashlib
import platform
from collections.abc import Iterable
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hessian_spectrum.api_schemas.models import CausalLm, Gpt2, Model
from hessian_spectrum.api_schemas.spectrum import SpectrumRequest
from hessian_spectrum.api_schemas.spectrum_results import Computation, Provenance, UsedCheckpoint
from hessian_spectrum.api_schemas.version import __version__
from hessian_spectrum.curvature.operators.execution import Execution
from hessian_spectrum.curvature.operators.risk_operator import RiskOperator
from hessian_spectrum.worker.experiments.operators import measured_deviation
from hessian_spectrum.worker.hardware import Hardware


def provenance(
    request: SpectrumRequest,
    *,
    hardware: Hardware,
    operator: RiskOperator,
    execution: Execution,
    micro_batch_size: int,
    parameters: Iterable[Tensor],
    data: Iterable[Tensor],
    num_products: int,
    wall_time_seconds: float,
    num_shards: int = 1,
    num_workers: int = 1,
) -> Provenance:
    """Everything that another run must share to give the same numbers, and what this one took."""
    deviation = measured_deviation(request, operator)  # may be the first product, which says whether it is recorded
    common = computation(
        hardware,
        precision=request.product_precision,
        execution=execution.description,
        micro_batch_size=micro_batch_size,
        data=data,
        num_products=num_products,
        product_fallback=operator.fallback_reason,
        wall_time_seconds=wall_time_seconds,
    )
    if isinstance(request.model, CausalLm):
        common.versions["transformers"] = version("transformers")
    return Provenance(
        **common.model_dump(),
        matrix=request.matrix,
        block=request.block,
        precision_deviation=deviation,
        seed=request.seed,
        checkpoint=used_checkpoint(request.model),
        parameters_sha256=digest(parameters),
        num_shards=num_shards,
        num_workers=num_workers,
    )


def computation(hardware: Hardware, *, data: Iterable[Tensor], **fields: Any) -> Computation:
    """What every result says; `fields` are those of the message that hardware and data do not give."""
    versions = {
        "spectrum-server": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }
    return Computation(
        versions=versions,
        device=_device_name(hardware.device),
        num_threads=hardware.num_threads,
        tf32=torch.backends.cuda.matmul.allow_tf32,
        data_sha256=digest(data),
        **fields,
    )


def used_checkpoint(model: Model) -> UsedCheckpoint | None:
    """That the parameters of the model come from, if they do."""
    match model:
        case (
            Gpt2(checkpoint=str(name), checkpoint_sha256=str(sha256))
            | CausalLm(checkpoint=name, checkpoint_sha256=sha256)
        ):
            return UsedCheckpoint(name=name, sha256=sha256)
        case _:
            return None


def _device_name(device: torch.device) -> str:
    return (
        f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else f"cpu ({platform.machine()})"
    )


def digest(tensors: Iterable[Tensor]) -> str:
    """SHA-256 over type, shape and bytes of each tensor in order."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
