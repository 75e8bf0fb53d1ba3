"""`python -m hessian_spectrum.worker.checkpoint_trial`: try one checkpoint in this process, and print the verdict.

It builds the model, gives it two tokens, and compares a recorded product of its Hessian with double backward. Whatever
goes wrong, down to the end of the process by a signal, happens to nobody else.
"""

import argparse
import os
import sys
import threading
from pathlib import Path

import torch
from torch import Tensor

from hessian_spectrum.api_schemas.checkpoints import CheckpointError, CheckpointVerdict, DecoderSizes
from hessian_spectrum.api_schemas.models import CausalLm as CausalLmSpec
from hessian_spectrum.api_schemas.models import Gpt2 as Gpt2Spec
from hessian_spectrum.checkpoints.causal_lm import causal_lm_fields
from hessian_spectrum.checkpoints.checkpoint import Checkpoint
from hessian_spectrum.checkpoints.directory import ModelsDirectory
from hessian_spectrum.checkpoints.gpt2 import gpt2_fields
from hessian_spectrum.curvature.data.base import Dataset
from hessian_spectrum.curvature.losses import CrossEntropy, EmpiricalRisk
from hessian_spectrum.curvature.models.base import Model, Parameters
from hessian_spectrum.curvature.operators.matrices import HessianOperator
from hessian_spectrum.curvature.operators.products import Fallback, is_memory_error
from hessian_spectrum.quadrature.exceptions import CurvatureError, InvalidProblemError
from hessian_spectrum.worker.builders import Inputs, build_model, build_parameters, generator_of
from hessian_spectrum.worker.checkpoint_check import OUT_OF_MEMORY
from hessian_spectrum.worker.checkpoints import CHANGED, decoder_sizes
from hessian_spectrum.worker.hardware import be_killed_first, set_niceness
from hessian_spectrum.worker.runtime.supervision import MemoryGuard

SMALL = 10_000_000
"""Largest number of parameters for which products of several vectors, and in double precision, are tried as well."""

_CPU = torch.device("cpu")


def main() -> None:
    """Print the verdict as JSON."""
    parser = argparse.ArgumentParser(prog="python -m hessian_spectrum.worker.checkpoint_trial")
    parser.add_argument("models_dir", type=Path)
    parser.add_argument("name")
    parser.add_argument("kind", choices=["gpt2", "causal-lm"])
    parser.add_argument("sha256")
    parser.add_argument("--memory-bytes", type=int)
    parser.add_argument("--niceness", type=int, default=0)
    parser.add_argument("--fallback-method", choices=["forward-over-reverse", "double-backward"])
    parser.add_argument("--fallback-reason", default="")
    arguments = parser.parse_args()
    threading.Thread(target=_exit_when_stdin_closes, daemon=True).start()
    set_niceness(arguments.niceness)
    be_killed_first()
    fallback = arguments.fallback_method and Fallback(arguments.fallback_method, arguments.fallback_reason)
    with MemoryGuard(arguments.memory_bytes, lambda _: os._exit(OUT_OF_MEMORY)):
        models = ModelsDirectory(arguments.models_dir)
        print(
            tried(models, arguments.name, arguments.kind, sha256=arguments.sha256, fallback=fallback).model_dump_json()
        )


def tried(
    models: ModelsDirectory, name: str, kind: str, *, sha256: str, fallback: Fallback | None = None
) -> CheckpointVerdict:
    """Try a checkpoint as a model of a kind.

    Args:
        models: The models directory.
        name: Name of the checkpoint.
        kind: Kind of model, "gpt2" or "causal-lm".
        sha256: Digest that the checkpoint is expected to have.
        fallback: How products are computed, because recording them ended a process before; None: they are recorded.

    Returns:
        The verdict.
    """
    try:
        checkpoint = models.open(name)
        if checkpoint.sha256 != sha256:
            return CheckpointVerdict(state="unchecked", reason=CHANGED)
        spec, sizes = _spec(name, kind, checkpoint)
        found, reason = _with_products(spec, Inputs(models), fallback)
    except (CheckpointError, CurvatureError) as error:
        return CheckpointVerdict(state="refused", reason=str(error))
    return CheckpointVerdict(
        state="loadable",
        reason=reason,
        sizes=sizes,
        fallback_method=None if found is None else found.method,
        fallback_reason=None if found is None else found.reason,
    )


def _spec(name: str, kind: str, checkpoint: Checkpoint) -> tuple[Gpt2Spec | CausalLmSpec, DecoderSizes | None]:
    if kind == "gpt2":
        fields = {"kind": kind, "checkpoint": name, **gpt2_fields(checkpoint).model_dump()}
        return Gpt2Spec.model_validate(fields), None
    sizes = decoder_sizes(checkpoint)
    fields = {"kind": kind, "checkpoint": name, **causal_lm_fields(checkpoint, sizes).model_dump()}
    return CausalLmSpec.model_validate(fields), sizes


def _with_products(
    spec: Gpt2Spec | CausalLmSpec, sources: Inputs, fallback: Fallback | None
) -> tuple[Fallback | None, str | None]:
    """Try the products of a model in float32 and, if it is small, in float64.

    Args:
        spec: The model.
        sources: Where its checkpoint is found.
        fallback: The way of computing products without a recording.

    Returns:
        How products must be computed where they cannot be recorded, and why there are none in one of the precisions;
        None: they can be recorded, and there are some in both.

    Raises:
        CheckpointError: If there are none in any precision.
    """
    model = build_model(spec, sources)
    is_small = sum(torch.Size(shape).numel() for shape in model.parameter_shapes.values()) <= SMALL
    errors: dict[torch.dtype, str] = {}
    for dtype in (torch.float32, torch.float64):
        if dtype == torch.float64 and not (is_small or errors):
            break
        try:
            parameters = build_parameters(spec, model, dtype=dtype, device=_CPU, sources=sources)
            fallback = _product(model, parameters, num_columns=2 if is_small else 1, fallback=fallback)
        except Exception as error:
            # the code of a model may raise any exception
            if is_memory_error(error):
                raise
            own = isinstance(error, CheckpointError | CurvatureError)
            errors[dtype] = str(error) if own else f"the model fails: {type(error).__name__}: {error!s:.300}"
    if len(errors) == 2:
        raise CheckpointError(errors[torch.float32])
    return fallback, next((f"in {str(dtype)[6:]}: {error}" for dtype, error in errors.items()), None)


def _product(model: Model, parameters: Parameters, *, num_columns: int, fallback: Fallback | None) -> Fallback | None:
    """Compute a product on two tokens and compare it with double backward.

    Args:
        model: The network.
        parameters: Its parameters.
        num_columns: Number of vectors of a product with several.
        fallback: The way of computing products without a recording.

    Returns:
        How products must be computed; None: from a recording.

    Raises:
        CheckpointError: If a product is not finite.
        CurvatureError: If a product cannot be computed; what the model raises is not caught.
    """
    tokens = torch.tensor([[0, model.num_outputs - 1]])
    try:
        model.check_inputs(tokens)
    except InvalidProblemError:
        tokens = tokens[:, 1:]  # a model with a single position
    risk = EmpiricalRisk(model, CrossEntropy(), [Dataset(tokens, tokens.flip(1))])
    operator = HessianOperator(risk, parameters, fallback=fallback)
    operator.checked_gradient_norm()
    vectors = torch.randn(operator.dim, num_columns, generator=generator_of(0), dtype=operator.dtype)
    product = operator.matvec(vectors[:, 0])
    operator.matmat(vectors)
    if not bool(product.isfinite().all()):
        raise CheckpointError("a product of its Hessian is not finite")
    if operator.fallback is None or operator.fallback.method != "double-backward":
        reverse = HessianOperator(risk, parameters, fallback=Fallback("double-backward", ""))
        if _differ(product, reverse.matvec(vectors[:, 0])):
            return Fallback("double-backward", "forward mode and double backward give different products")
    return operator.fallback


def _differ(product: Tensor, reference: Tensor) -> bool:
    """Return whether two products differ by more than rounding errors, possibly magnified by cancellation."""
    tolerance = torch.finfo(product.dtype).eps ** 0.5
    return bool((product - reference).norm() > 10 * tolerance * reference.norm())


def _exit_when_stdin_closes() -> None:
    """End this process when its standard input is closed, since nobody waits for the verdict any more."""
    sys.stdin.read()
    os._exit(os.EX_TEMPFAIL)


if __name__ == "__main__":
    main()
