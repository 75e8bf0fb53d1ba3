"""Threads of the numerical libraries."""

from collections.abc import Iterator

import pytest
from threadpoolctl import threadpool_limits


@pytest.fixture(autouse=True, scope="session")
def one_thread_of_numpy() -> Iterator[None]:
    """Small eigenvalue problems take up to a hundred times as long in threads that wait for each other."""
    with threadpool_limits(limits=1, user_api="blas"):
        yield
