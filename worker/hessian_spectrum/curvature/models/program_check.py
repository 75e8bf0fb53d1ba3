"""What a worker checks of a program's calls before it runs them: they name operators, whose arguments they give."""

from typing import Any

import torch
from torch._ops import OpOverload, OpOverloadPacket

from hessian_spectrum.programs.operators import base_name, refusal
from hessian_spectrum.programs.program import Call, Program
from hessian_spectrum.quadrature.exceptions import InvalidProblemError


def check_calls(program: Program) -> None:
    """Check that all calls name operators of PyTorch, with arguments that these take and may be given.

    Raises:
        InvalidProblemError: If one does not; the message names it.
    """
    for call in program.calls():
        if call.op.startswith("aten."):
            _check_call(call)


def overload_named(op: str) -> OpOverload[..., Any]:
    """Return an operator of PyTorch, and never another attribute of what holds it, such as `__setattr__`.

    Args:
        op: Its name with the overload, as `aten.add.Tensor`.

    Raises:
        InvalidProblemError: If there is none of this name.
    """
    library, _, rest = op.partition(".")
    name, _, overload = rest.partition(".")
    packet = getattr(torch.ops.aten, name, None) if library == "aten" else None
    if not isinstance(packet, OpOverloadPacket) or overload not in packet.overloads():  # type: ignore[no-untyped-call]
        raise InvalidProblemError(f"the program calls {op!a:.64}, which this version of PyTorch does not have")
    function: OpOverload[..., Any] = getattr(packet, overload)
    return function


def _check_call(call: Call) -> None:
    arguments = overload_named(call.op)._schema.arguments
    names = [argument.name for argument in arguments]
    num_positions = sum(not argument.kwarg_only for argument in arguments)
    if len(call.args) > num_positions or call.kwargs.keys() - set(names):
        raise InvalidProblemError(f"the program calls {call.op:.64} with arguments that it does not take")
    # by the schema, whatever names the file gave them
    given = dict(zip(names, call.args, strict=False)) | dict(call.kwargs)
    if reason := refusal(call.op, given):
        raise InvalidProblemError(f"the program calls {call.op:.64}: {reason}")
    changed = [argument.name for argument in arguments if argument.alias_info and argument.alias_info.is_write]
    if changed and (changed != names[:1] or not base_name(call.op).endswith("_")):
        raise InvalidProblemError(f"the program calls {call.op:.64}, which writes to its argument {changed[0]}")
