"""Arithmetic on lengths is that on numbers, for every number of samples."""

import operator
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hessian_spectrum.service.uploads.onnx.lengths import (
    Length,
    UnknownLengthError,
    broadcast,
    is_at_most,
    product,
    sign,
)

N = Length.of_samples()
COUNTS = range(1, 12)


def at(value: Any, count: int) -> int:
    return int(value.at(count) if isinstance(value, Length) else value)


LENGTHS = st.builds(lambda a, b: N * a + b, st.integers(-9, 9), st.integers(-9, 9))


@given(LENGTHS, LENGTHS, st.sampled_from([operator.add, operator.sub, operator.mul]))
def test_sums_and_products(one: Any, other: Any, operation: Callable[[Any, Any], Any]) -> None:
    for count in COUNTS:
        assert at(operation(one, other), count) == operation(at(one, count), at(other, count))


@given(LENGTHS, LENGTHS)
def test_a_quotient_without_remainder_is_found(one: Any, other: Any) -> None:
    if isinstance(other, Length) or other:
        quotient = (one * other) // other
        assert all(at(quotient, count) == at(one, count) for count in COUNTS)


@given(LENGTHS)
def test_a_sign_holds_for_every_number_of_samples(value: Any) -> None:
    signs = {(at(value, count) > 0) - (at(value, count) < 0) for count in COUNTS}
    try:
        assert signs == {sign(value)}
    except UnknownLengthError:
        assert isinstance(value, Length)


@given(LENGTHS, LENGTHS)
def test_a_bound_holds_for_every_number_of_samples(value: Any, bound: Any) -> None:
    assert not is_at_most(value, bound) or all(at(value, count) <= at(bound, count) for count in COUNTS)


def test_a_remainder_is_refused() -> None:
    with pytest.raises(UnknownLengthError):
        _ = (N + 1) // 2


def test_shapes() -> None:
    assert product((N, 3, 2)) == N * 6
    assert broadcast((N, 1, 3), (4, 1)) == (N, 4, 3)
