"""A program whose sizes grow as it runs is refused before memory is taken; networks as people have them are not."""

import operator
from typing import Any

import pytest
import torch

from hessian_spectrum.curvature.models import program_sizes
from hessian_spectrum.curvature.models.program_run import bounded_size
from hessian_spectrum.curvature.models.program_sizes import check_sizes
from hessian_spectrum.quadrature.exceptions import InvalidProblemError
from tests.fixtures.exported import exported, loaded, stored
from tests.security.program_files import BATCH, Parts, node, parts, tensor, value

_LIMIT = 2**32
_INPUTS = torch.ones(3, 2)

Arguments = tuple[tuple[str, Any], ...]


def _ints(*numbers: int) -> dict[str, Any]:
    return {"as_ints": list(numbers)}


def _number(number: int) -> dict[str, Any]:
    return {"as_int": number}


def grown(target: str, *arguments: tuple[str, Any], source: str = "out") -> Parts:
    """A network with a call on one of its values, whose result it adds to its output."""
    each = parts()
    each.nodes.extend(
        [
            node(f"torch.ops.aten.{target}", "grown", ("self", value(source)), *arguments),
            node("torch.ops.aten.sum.default", "total", ("self", value("grown"))),
            node("torch.ops.aten.add.Tensor", "more", ("self", value("out")), ("other", value("total"))),
        ]
    )
    each.values.update(grown=tensor(1), total=tensor(), more=tensor(BATCH, 1))
    each.return_value("more")
    return each


_LARGE: dict[str, Any] = {
    "expand": ("expand.default", ("size", _ints(2**45, 3, 1))),
    "repeat": ("repeat.default", ("repeats", _ints(2**40, 1))),
    "zeros": ("new_zeros.default", ("size", _ints(2**50))),
    "beyond-64-bits": ("new_zeros.default", ("size", _ints(2**40, 2**40))),
    "full": ("new_full.default", ("size", _ints(2**35)), ("fill_value", {"as_float": 1.0})),
    "pad": ("constant_pad_nd.default", ("pad", _ints(0, 2**36))),
    "interleaved": ("repeat_interleave.self_int", ("repeats", _number(2**40))),
    "strided": ("new_empty.default", ("size", _ints(2**62))),
}


@pytest.mark.parametrize("name", _LARGE)
def test_a_value_larger_than_the_memory_is_refused_with_its_call(name: str) -> None:
    target, *arguments = _LARGE[name]
    model = loaded(stored(grown(target, *arguments).file()))
    with pytest.raises(InvalidProblemError, match=f"{target} of the module layer: .*a job has 4 GiB"):
        check_sizes(model, _INPUTS, dtype=torch.float32, limit_bytes=_LIMIT)


def test_values_that_are_small_one_by_one_are_counted_together() -> None:
    each = parts()
    for index in range(10):
        size, number = ("size", _ints(2**28)), ("fill_value", {"as_float": 1.0})
        each.nodes.append(node("torch.ops.aten.full.default", f"f{index}", size, number))
        each.values[f"f{index}"] = tensor(1)
    for index in range(10):
        name = f"g{index}"
        before = ("self", value(f"g{index - 1}" if index else "out")), ("other", value(f"s{index}"))
        each.nodes.append(node("torch.ops.aten.sum.default", f"s{index}", ("self", value(f"f{index}"))))
        each.nodes.append(node("torch.ops.aten.add.Tensor", name, *before))
        each.values.update({f"s{index}": tensor(), name: tensor(BATCH, 1)})
    each.return_value("g9")
    with pytest.raises(InvalidProblemError, match="held at once take 4 GiB, a job has 4 GiB"):
        check_sizes(loaded(stored(each.file())), _INPUTS, dtype=torch.float32, limit_bytes=_LIMIT)


def test_pieces_are_counted_before_they_are_made() -> None:
    each = grown("new_zeros.default", ("size", _ints(2**29)))
    pieces = node("torch.ops.aten.unbind.int", "piece", ("self", value("grown")))
    each.nodes.append(pieces | {"outputs": [{"as_tensors": [{"name": "piece"}]}]})
    each.values["piece"] = tensor()
    model = loaded(stored(each.file()))
    with pytest.raises(InvalidProblemError, match=r"unbind.*makes 536,870,912 pieces"):
        check_sizes(model, _INPUTS, dtype=torch.float32, limit_bytes=_LIMIT)


class Recurrent(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = torch.nn.LSTM(2, 3, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        steps = x[:, None].expand(-1, 50, -1)
        return self.cell(steps)[0][:, -1]  # type: ignore[no-any-return]


@pytest.mark.filterwarnings("ignore:The tensor attributes")
def test_steps_of_a_loop_inside_an_operator_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program_sizes, "MAX_OPERATIONS", 100)
    model = exported(Recurrent().eval(), _INPUTS)
    with pytest.raises(InvalidProblemError, match=r"lstm.*more than 100 operations"):
        check_sizes(model, _INPUTS, dtype=torch.float32, limit_bytes=_LIMIT)


@pytest.mark.parametrize("arguments", [(2, 64), (2**62, 2**62), (-(2**40), 10**15)])
def test_powers_of_lengths_are_bounded(arguments: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="too large for a length"):
        bounded_size(operator.pow, *arguments)
    assert bounded_size(operator.pow, 2, 40) == 2**40
    assert bounded_size(operator.pow, 1, 2**62) == 1
