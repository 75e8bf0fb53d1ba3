"""Laws of many kinds, and their equation in 40 and more digits."""

from collections.abc import Callable
from typing import Any

import mpmath as mp
import pytest

from hessian_spectrum.theory.random_matrix.ensembles import wigner_law, wishart_law
from hessian_spectrum.theory.random_matrix.hessian import hessian_law
from hessian_spectrum.theory.random_matrix.law import FreeLaw

LAWS = {
    "wigner": wigner_law(0.3),
    "wishart": wishart_law(2.5, 0.4),
    "wishart, atom": wishart_law(1.0, 3.0),
    "wishart, hard edge": wishart_law(1.0, 1.0),
    "linear, below critical": hessian_law("linear", 0.005, 0.5),
    "linear, above critical": hessian_law("linear", 0.3, 0.5),
    "linear, two intervals": hessian_law("linear", 0.02, 3.0),
    "relu, above critical": hessian_law("relu", 0.34, 0.379),
    "relu, many parameters": hessian_law("relu", 0.2, 1.5),
    "relu, atom": hessian_law("relu", 1.0, 3.0),
    "relu, hard edge": hessian_law("relu", 0.3, 2.0),
    "two wisharts": wishart_law(1.0, 5.0) + wishart_law(10.0, 8.0),
    "two relus": hessian_law("relu", 0.01, 4.0) + hessian_law("relu", 3.0, 7.0),
    "small wigner and wishart": wigner_law(0.01) + wishart_law(1.0, 6.0),
}


@pytest.fixture(params=LAWS.values(), ids=LAWS.keys())
def law(request: Any) -> FreeLaw:
    found: FreeLaw = request.param
    return found


@pytest.fixture
def equation() -> Callable[[FreeLaw], Callable[[Any], Any]]:
    """z(u) = u + R(1/u) u-form of a law in the precision of mpmath."""

    def of(law: FreeLaw) -> Callable[[Any], Any]:
        parts = [(mp.mpf(rate), mp.mpf(jump)) for rate, jump in zip(law.rates, law.jumps, strict=True)]
        variance = mp.mpf(law.semicircle_variance)

        def z(inverse: Any) -> Any:
            bow = variance / inverse if variance else mp.mpf(0)
            return inverse + bow + sum(rate * jump * inverse / (inverse - jump) for rate, jump in parts)

        return z

    return of
