"""Recorded linear maps: the same map, only what it reads, and an error where it cannot be repeated."""

import linecache
from collections.abc import Callable

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor
from torch.func import jvp, vmap
from torch.fx.graph_module import _loader
from torch.testing import assert_close

from hessian_spectrum.curvature.data.gaussian import gaussian
from hessian_spectrum.curvature.linear_algebra import assemble
from hessian_spectrum.curvature.losses import EmpiricalRisk, Mse
from hessian_spectrum.curvature.models.mlp import Mlp
from hessian_spectrum.curvature.operators.graphs.nodes import is_mutation
from hessian_spectrum.curvature.operators.matrices import HessianOperator
from hessian_spectrum.curvature.operators.programs import Map, Program, UnrecordableError, record
from hessian_spectrum.curvature.operators.reduced_precision import reduced

Seeded = Callable[[int], torch.Generator]
F64 = torch.float64
aten = torch.ops.aten


def derivative_of(function: Map, point: Tensor) -> Map:
    return lambda vector: jvp(function, (point,), (vector,))[1]


def test_only_what_products_need_is_kept(seeded: Seeded) -> None:
    """cos exp sin x has the derivative v * (-sin exp sin x)(exp sin x)(cos x): one vector, multiplied beforehand."""
    point, first, second = torch.randn(3, 50, generator=seeded(0), dtype=F64)
    value, program = record(derivative_of(lambda x: torch.exp(torch.sin(x)).cos(), point), first)
    slope = -point.sin().exp().sin() * point.sin().exp() * point.cos()
    assert_close(value, slope * first, rtol=1e-14, atol=0)
    assert_close(program(second), slope * second, rtol=1e-14, atol=1e-16)
    assert [tuple(tensor.shape) for tensor in program.constants] == [(50,)]


@pytest.mark.parametrize("num_rows", [None, 3])
def test_matrix_products_are_summed_where_they_lie(num_rows: int | None, seeded: Seeded) -> None:
    x, W = torch.randn(2, 4, 4, generator=seeded(1), dtype=F64)
    function = derivative_of(lambda w: torch.tanh(x @ w) @ w.T, W)
    shape = (4, 4) if num_rows is None else (num_rows, 4, 4)
    batched = function if num_rows is None else vmap(function)
    first, second = torch.randn(2, *shape, generator=seeded(2), dtype=F64)
    value, program = record(batched, first)
    assert_close(value, batched(first), rtol=1e-13, atol=1e-14)
    before = program(second)
    assert_close(before, batched(second), rtol=1e-13, atol=1e-14)
    assert torch.equal(program(second), before)  # nothing that is kept was changed
    if num_rows is None:
        assert any("addmm_" in str(node.target) for node in program.graph.graph.nodes)


def test_parts_of_the_result_are_not_held_beside_it(seeded: Seeded) -> None:
    """Sums overwrite what nobody reads again, and each part is written where it belongs, in the result's order."""
    x, W, scale = torch.randn(3, 4, 4, generator=seeded(1), dtype=F64)

    def function(v: Tensor) -> Tensor:
        a, b = v.split(16)
        left, right = (x @ a.view(4, 4)).flip(0) + (scale @ b.view(4, 4)).flip(1), b.view(4, 4).T * W
        return torch.cat([right.reshape(-1), left.reshape(-1), a * 2.0]).unsqueeze(0)

    vector = torch.randn(32, generator=seeded(2), dtype=F64)
    value, program = record(function, vector)
    targets = [str(node.target) for node in program._in_place.graph.nodes]
    assert not any("cat" in target for target in targets)
    assert sum("copy_" in target for target in targets) == 3
    assert any("add_" in target for target in targets)
    first, second = torch.randn(2, 32, generator=seeded(3), dtype=F64)
    for each in (first, second, first):
        assert_close(program(each), function(each), rtol=1e-13, atol=1e-14)
        assert_close(program.graph(each, *program.constants), function(each), rtol=1e-13, atol=1e-14)
    assert_close(value, function(vector), rtol=1e-13, atol=1e-14)


def test_what_is_read_twice_is_not_overwritten(seeded: Seeded) -> None:
    point = torch.randn(6, generator=seeded(1), dtype=F64)

    def function(v: Tensor) -> Tensor:
        a = v * point
        b = a + a
        c = b.view(2, 3)
        return torch.cat([a + b, b - a * 3.0, (c * c.new_ones(2, 3)).view(-1) + b])

    vector = torch.randn(6, generator=seeded(2), dtype=F64)
    _, program = record(function, vector)
    for scale in (1.0, -2.0, 1.0):
        assert_close(program(vector * scale), function(vector * scale), rtol=1e-14, atol=1e-15)


def is_changed_in_place(program: Program) -> bool:
    """Whether an operation of the graph writes into an operand, other than a product that is added to another."""
    return any(is_mutation(node) and "mm_" not in str(node.target) for node in program.graph.graph.nodes)


@pytest.mark.parametrize("is_read_later", [False, True])
def test_a_tangent_that_autograd_copies_into_a_view_hinders_nothing(is_read_later: bool, seeded: Seeded) -> None:
    """As in the derivative of (x W).view(...).add_(b), the input projection of PyTorch's attention."""
    x = torch.randn(6, 4, generator=seeded(1), dtype=F64)

    def function(v: Tensor) -> Tensor:
        whole = x @ v.view(4, 4)
        view = whole.view(2, 3, 4)
        view.copy_(view + v[:4])
        return torch.cat([(view * 2.0).view(-1), whole.view(-1) if is_read_later else v])

    first, second = torch.randn(2, 16, generator=seeded(2), dtype=F64)
    value, program = record(function, first)
    assert is_changed_in_place(program) is is_read_later
    assert_close(value, function(first), rtol=1e-14, atol=1e-15)
    assert_close(program(second), function(second), rtol=1e-14, atol=1e-15)


def test_a_source_that_changes_after_it_was_copied_stays_a_copy(seeded: Seeded) -> None:
    def function(v: Tensor) -> Tensor:
        source = v * 2.0
        target = torch.zeros_like(v).copy_(source)
        source.view(2, 3).mul_(3.0)
        return target + source

    vector = torch.randn(6, generator=seeded(1), dtype=F64)
    _, program = record(function, vector)
    assert_close(program(vector), 8 * vector, rtol=1e-14, atol=0)


def test_what_is_computed_twice_is_computed_once(seeded: Seeded) -> None:
    first, second, vector = torch.randn(3, 6, generator=seeded(1), dtype=F64)

    def function(v: Tensor) -> Tensor:
        return (v - v.mean()) * first + second * (v - v.mean(0)) + v.mean(0, keepdim=True)

    _, program = record(function, vector)
    targets = [str(node.target) for node in program.graph.graph.nodes]
    assert sum("sub" in target for target in targets) == 2  # of mean() and mean(0), which are other operations
    assert_close(program(vector), function(vector), rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("axes", [(), (3,)])
def test_a_vector_for_every_row_is_part_of_the_product(axes: tuple[int, ...], seeded: Seeded) -> None:
    x, y = torch.randn(2, 2, *axes, 4, generator=seeded(1), dtype=F64)
    W = torch.randn(4, 4, generator=seeded(2), dtype=F64)

    def function(v: Tensor) -> Tensor:
        weight, bias, scale = v[:16].view(4, 4), v[16:20], v[20:]
        return x @ weight + (y * scale) @ W + bias

    vector = torch.randn(24, generator=seeded(3), dtype=F64)
    _, program = record(function, vector)
    targets = [str(node.target) for node in program.graph.graph.nodes]
    assert "aten.addmm.default" in targets
    assert not any("add.Tensor" in target for target in targets)
    assert_close(program(vector), function(vector), rtol=1e-13, atol=1e-14)


def test_products_with_vectors_added_are_reduced_like_others(seeded: Seeded) -> None:
    x, y = torch.randn(2, 6, 4, generator=seeded(1))
    W = torch.randn(4, 4, generator=seeded(2))

    def function(v: Tensor) -> Tensor:
        weight, bias, scale = v.split([16, 4, 4])
        return x @ weight.view(4, 4) + (y * scale) @ W + bias

    vector = torch.randn(24, generator=seeded(3))
    _, program = record(function, vector)
    lowered = reduced(program, "bfloat16")
    assert sum("addmm" in str(node.target) for node in program.graph.graph.nodes) == 2
    assert not any("addmm" in str(node.target) for node in lowered.graph.graph.nodes)
    for _ in range(2):
        deviation = (lowered(vector) - function(vector)).norm() / function(vector).norm()
        assert 1e-5 < float(deviation) < 1e-2


@given(
    st.lists(st.integers(0, 3), min_size=2, max_size=5),
    st.sampled_from([0, -1]),
    st.booleans(),
)
def test_sums_of_parts(indices: list[int], axis: int, are_slices: bool) -> None:
    """They are joined where each part of the first sum that fills the whole is there once, and stay sums otherwise."""
    sizes = (4, 4)

    def padded(v: Tensor, index: int) -> Tensor:
        if are_slices:
            part = v.narrow(axis, index, 1)
            return aten.slice_backward(part, sizes, axis, index, index + 1, 1)
        return aten.select_backward(v.select(axis, index), sizes, axis, index)

    def function(v: Tensor) -> Tensor:
        total = padded(v.view(sizes), indices[0])
        for index in indices[1:]:
            total = total + padded(v.view(sizes), index)
        return total

    vector = torch.arange(1.0, 17.0, dtype=F64)
    _, program = record(function, vector)
    assert torch.equal(program(vector), function(vector))
    is_joined = any("cat" in str(node.target) for node in program.graph.graph.nodes)
    assert is_joined is (sorted(indices[:4]) == [0, 1, 2, 3])


@given(
    st.integers(0, 2),
    st.lists(st.integers(1, 3), min_size=1, max_size=3),
    st.permutations(range(3)),
    st.sampled_from(["none", "first", "last"]),
    st.booleans(),
)
def test_a_permuted_concatenation_is_one_of_permuted_parts(
    axis: int, lengths: list[int], order: list[int], further: str, is_read_again: bool
) -> None:
    sizes = [2, 3, 4]
    starts = [sum(lengths[:index]) for index in range(len(lengths))]

    def function(v: Tensor) -> Tensor:
        whole = v.view([sum(lengths) if each == axis else size for each, size in enumerate(sizes)])
        parts = [whole.narrow(axis, start, length) * 2.0 for start, length in zip(starts, lengths, strict=True)]
        joined = torch.cat(parts, axis)
        moved = joined
        if further == "first":
            moved = moved.unsqueeze(0).transpose(0, 2).squeeze(2)
        elif further == "last":
            moved = moved.unsqueeze(-1).transpose(1, -1).squeeze(1)
        result = moved.permute(order).clone(memory_format=torch.contiguous_format)
        return torch.cat([result.view(-1), joined.reshape(-1)]) if is_read_again else result

    size = sum(lengths) * 24 // sizes[axis]
    vector = torch.arange(1.0, size + 1.0, dtype=F64)
    _, program = record(function, vector)
    assert torch.equal(program(vector), function(vector))
    num_copies = sum("clone" in str(node.target) for node in program.graph.graph.nodes)
    assert num_copies <= int(is_read_again or sum(lengths) == 1 or order == [0, 1, 2])


@pytest.mark.parametrize("num_rows", [None, 3])
@pytest.mark.parametrize("is_read_again", [False, True])
def test_products_are_computed_where_the_result_has_them(
    num_rows: int | None, is_read_again: bool, seeded: Seeded
) -> None:
    """Unless something else reads them: it may overwrite them."""
    x, y, W = torch.randn(3, 4, 4, generator=seeded(1), dtype=F64)

    def function(v: Tensor) -> Tensor:
        a, b = (each.view(4, 4) for each in v.split(16))
        first = (W @ a).t().t() + b @ y
        second = x @ b
        later = [second.sum(0) * 2.0 + v[:4]] if is_read_again else []
        return torch.cat([second.reshape(-1), first.reshape(-1), *later])

    batched = function if num_rows is None else vmap(function)
    shape = (32,) if num_rows is None else (num_rows, 32)
    first, second = torch.randn(2, *shape, generator=seeded(2), dtype=F64)
    _, program = record(batched, first)
    targets = [str(node.target) for node in program._in_place.graph.nodes]
    if num_rows is None:
        assert targets.count("aten.mm.out") == (1 if is_read_again else 2)
    for each in (second, first, second):
        before = program(each)
        assert_close(before, batched(each), rtol=1e-13, atol=1e-13)
        program(first + second)
        assert_close(before, batched(each), rtol=1e-13, atol=1e-13)  # each result has memory of its own


def test_differences_of_scaled_results_are_one_pass(seeded: Seeded) -> None:
    scale, other = torch.randn(2, 6, generator=seeded(1), dtype=F64)

    def function(v: Tensor) -> Tensor:
        return v * scale - other * v.flip(0)

    vector = torch.randn(6, generator=seeded(2), dtype=F64)
    _, program = record(function, vector)
    targets = [str(node.target) for node in program._in_place.graph.nodes]
    assert "aten.addcmul_.default" in targets
    assert not any("sub" in target for target in targets)
    assert_close(program(vector), function(vector), rtol=1e-14, atol=1e-15)


def test_long_sums_and_long_chains_of_views(seeded: Seeded) -> None:
    """Loops over time steps leave thousands of them."""
    num_steps = 1500

    def function(v: Tensor) -> Tensor:
        total = torch.zeros_like(v)
        for index in range(num_steps):
            total = total + aten.select_backward(v[index] * 2.0, v.shape, 0, index)
        for _ in range(num_steps):
            total = total.view(-1, 1).view(-1)
        return total.add_(v)

    first, second = torch.randn(2, num_steps, generator=seeded(1), dtype=F64)
    _, program = record(function, first)
    assert_close(program(second), 3 * second, rtol=1e-14, atol=0)
    assert sum("add" in str(node.target) for node in program.graph.graph.nodes) == 1


def test_results_are_overwritten_through_views_of_them(seeded: Seeded) -> None:
    x, positive = torch.randn(2, 6, 4, generator=seeded(1), dtype=F64)

    def function(v: Tensor) -> Tensor:
        product = (x @ v.view(4, 4)).view(2, 3, 4)
        return aten.threshold_backward(product + x.view(2, 3, 4) * v[0], positive.view(2, 3, 4), 0)

    first, second = torch.randn(2, 16, generator=seeded(2), dtype=F64)
    _, program = record(function, first)
    targets = {str(node.target) for node in program._in_place.graph.nodes}
    assert targets >= {"aten.addcmul_.default", "aten.threshold_backward.grad_input"}
    for each in (second, first, second):
        assert_close(program(each), function(each), rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_channels_of_convolutions_lie_last_in_single_precision(dtype: torch.dtype, seeded: Seeded) -> None:
    images = torch.randn(5, 3, 6, 7, generator=seeded(1), dtype=dtype)
    kernel = torch.randn(4, 3, 3, 3, generator=seeded(2), dtype=dtype)

    def function(weights: Tensor) -> Tensor:
        hidden = torch.relu(torch.conv2d(images, weights.view(4, 3, 3, 3), padding=1))
        return torch.conv2d(hidden, weights.view(4, 3, 3, 3).transpose(0, 1), stride=2).flatten(1).view(-1)

    derivative = derivative_of(function, kernel.flatten())
    first, second = torch.randn(2, kernel.numel(), generator=seeded(3), dtype=dtype)
    _, program = record(derivative, first)
    laid = [each for each in program.constants if each.is_contiguous(memory_format=torch.channels_last)]
    assert bool(laid) is (dtype == torch.float32)
    places = {each.data_ptr() for each in program.constants}
    assert len(places) == len({(each.data_ptr(), each.shape) for each in program.constants})
    expected = derivative(second)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-13
    assert float((program(second) - expected).norm()) < tolerance * float(expected.norm())


def test_memory_that_is_read_by_strides_stays_where_it_is(seeded: Seeded) -> None:
    images, kernel = torch.randn(2, 3, 6, 7, generator=seeded(1)), torch.randn(4, 3, 3, 3, generator=seeded(2))

    def function(weights: Tensor) -> Tensor:
        result = torch.conv2d(images, weights.view(4, 3, 3, 3))
        return result.as_strided((2, 4), (result.stride(0), 1)).flatten()

    _, program = record(function, kernel.flatten())
    expected = function(2 * kernel.flatten())
    assert_close(program(2 * kernel.flatten()), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("is_read_later", [False, True])
def test_a_result_is_overwritten_where_it_is_read_last(is_read_later: bool, seeded: Seeded) -> None:
    x, first, second = torch.randn(3, 4, 4, generator=seeded(1), dtype=F64)

    def function(v: Tensor) -> Tensor:
        whole = (x @ v.view(4, 4)).view(2, 8)
        early = (whole * first.view(2, 8)).sum(0)
        late = whole * second.view(2, 8)
        rest = whole if is_read_later else v.view(2, 8)
        return torch.cat([early, late.sum(0), rest.view(-1)])

    vectors = torch.randn(2, 16, generator=seeded(2), dtype=F64)
    _, program = record(function, vectors[0])
    targets = [str(node.target) for node in program._in_place.graph.nodes]
    assert ("aten.mul_.Tensor" in targets) is not is_read_later
    for vector in (*vectors, vectors[0]):
        assert_close(program(vector), function(vector), rtol=1e-13, atol=1e-14)


@example([(0, 0, 0), (1, 1, 5)])
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12))
def test_any_order_of_operations_gives_the_same_map(steps: list[tuple[int, int, int]]) -> None:
    """Each step combines two earlier results, through views or not; whatever is overwritten, the values stay."""
    generator = torch.Generator().manual_seed(0)
    constants = torch.randn(len(steps) + 1, 4, 4, generator=generator, dtype=F64)

    def function(v: Tensor) -> Tensor:
        found = [v.view(4, 4) * constants[-1]]
        for (left, right, kind), constant in zip(steps, constants[:-1], strict=True):
            a, b = found[left % len(found)], found[right % len(found)]
            match kind:
                case 0:
                    found.append(a + b)
                case 1:
                    found.append(a * constant + b)
                case 2:
                    found.append(a.reshape(2, 8).view(4, 4) @ constant + b)
                case 3:
                    found.append(aten.threshold_backward(a, constant, 0) - b.t())
                case 4:
                    found.append(a.t() * constant)
                case _:
                    found.append(a.t() + b)
        return torch.cat([found[-1].reshape(-1), found[0].reshape(-1)])

    first, second = torch.randn(2, 16, generator=generator, dtype=F64)
    _, program = record(function, first)
    expected = function(second)
    for _ in range(2):
        assert float((program(second) - expected).abs().max()) <= 1e-12 * float(expected.abs().max())


def test_a_map_that_is_zero(seeded: Seeded) -> None:
    vector = torch.randn(5, generator=seeded(3), dtype=F64)
    value, program = record(lambda v: torch.zeros_like(v.detach().new_empty(5)), vector)
    assert not value.any()
    program(vector).add_(1)
    assert not program(vector).any()


def test_a_result_that_is_no_linear_map_is_refused(seeded: Seeded) -> None:
    with pytest.raises(UnrecordableError, match="does not depend"):
        record(lambda v: torch.ones(5, dtype=F64), torch.randn(5, generator=seeded(4), dtype=F64))


def test_state_that_changes_while_it_is_read_is_refused(seeded: Seeded) -> None:
    calls = torch.zeros((), dtype=F64)

    def counting(vector: Tensor) -> Tensor:
        result = vector * calls
        calls.add_(1)
        return result

    with pytest.raises(UnrecordableError, match="in place"):
        record(counting, torch.randn(5, generator=seeded(5), dtype=F64))


def test_a_tangent_that_is_absent_is_read_as_zeros(seeded: Seeded) -> None:
    """Autograd's zeros have no memory: a multiplication with a number that read it ended the process by SIGSEGV."""
    left, right = torch.randn(2, 2, 3, 3, generator=seeded(8), dtype=F64)

    def tangent(vector: Tensor) -> Tensor:
        def product(matrix: Tensor) -> Tensor:
            return torch.baddbmm(torch.ones(2, 3, 3, dtype=F64), matrix, right, beta=0.5, alpha=2)

        return torch.func.jvp(product, (left,), (vector,))[1]

    value, program = record(tangent, left)
    assert_close(value, 2 * left @ right)
    assert_close(program(right), 2 * right @ right)


def operator_of(seeded: Seeded) -> HessianOperator:
    model = Mlp((3, 4, 3), "tanh")
    data = gaussian(12, 3, 3, teacher="linear", noise=0.1, generator=seeded(0))
    parameters = model.initial_parameters(seeded(1), F64, torch.device("cpu"))
    return HessianOperator(EmpiricalRisk(model, Mse(), data.split(5)), parameters)


@pytest.mark.parametrize("error", [UnrecordableError("it has state"), NotImplementedError("no rule for vmap")])
def test_models_that_cannot_be_recorded_fall_back_with_a_reason(
    error: Exception, seeded: Seeded, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, operator = operator_of(seeded), operator_of(seeded)
    columns = torch.randn(operator.dim, 3, generator=seeded(6), dtype=F64)
    expected, matrix = plain.matmat(columns), assemble(plain)

    def failing(function: Map, argument: Tensor) -> tuple[Tensor, Program]:
        raise error

    monkeypatch.setattr("hessian_spectrum.curvature.operators.recordings.record", failing)
    assert_close(operator.matmat(columns), expected, rtol=1e-12, atol=1e-13)
    assert_close(assemble(operator), matrix, rtol=1e-12, atol=1e-13)
    assert operator.fallback_reason is not None
    assert str(error) in operator.fallback_reason


def too_long(function: Map, argument: Tensor) -> Map:
    return lambda vector: function(vector) * 1.001


def with_a_stale_part(function: Map, argument: Tensor) -> Map:
    stale = function(argument)
    return lambda vector: 0.999 * function(vector) + 0.001 * stale


@pytest.mark.parametrize("wrong", [too_long, with_a_stale_part])
def test_a_wrong_recording_is_noticed(
    wrong: Callable[[Map, Tensor], Map], seeded: Seeded, monkeypatch: pytest.MonkeyPatch
) -> None:
    def record_wrongly(function: Map, argument: Tensor) -> tuple[Tensor, Program]:
        return function(argument), record(wrong(function, argument), argument)[1]

    operator, plain = operator_of(seeded), operator_of(seeded)
    vector = torch.randn(operator.dim, generator=seeded(7), dtype=F64)
    expected = plain.matvec(vector)
    monkeypatch.setattr("hessian_spectrum.curvature.operators.recordings.record", record_wrongly)
    assert_close(operator.matvec(vector), expected, rtol=1e-12, atol=1e-13)
    assert operator.fallback_reason is not None
    assert "products that differ" in operator.fallback_reason


def test_nothing_is_left_of_a_program_that_is_gone() -> None:
    def forget_one() -> None:
        _, program = record(lambda v: torch.sin(torch.arange(3.0)) * v, torch.ones(3))
        assert program(torch.ones(3)).shape == (3,)

    forget_one()
    before = len(_loader.eval_cache), len(linecache.cache)
    for _ in range(5):
        forget_one()
    assert (len(_loader.eval_cache), len(linecache.cache)) == before


@pytest.mark.parametrize("is_view", [False, True])
def test_a_value_that_changes_after_it_was_read_is_kept_as_it_was(is_view: bool, seeded: Seeded) -> None:
    """Derivatives of norms mask values in place that products have read before, as autograd's do."""
    point, first, second = torch.randn(3, 5, generator=seeded(9), dtype=F64)

    def function(vector: Tensor) -> Tensor:
        scale = point * 2
        read = scale.view(5, 1)[:, 0] if is_view else scale
        result = vector * read
        scale.masked_fill_(point > 0, 0.0)
        return result + vector.flip(0) * scale

    _, program = record(function, first)
    for vector in (first, second):
        assert_close(program(vector), function(vector), rtol=1e-14, atol=1e-15)
