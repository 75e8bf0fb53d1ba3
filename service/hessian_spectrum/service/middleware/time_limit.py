"""Time limits of operations that seldom have to wait."""

import asyncio
from collections.abc import Awaitable, Generator
from typing import Any, Generic, TypeVar, cast

T = TypeVar("T")


async def within(deadline: float, operation: Awaitable[T]) -> T:
    """Await an operation until a time of the event loop's clock.

    Unlike under `asyncio.timeout`, a timer is only set if the operation has to wait at all. Most bodies of requests are
    there when they are read, and most responses fit into the buffers of the network; a timer for each of them would
    take a tenth of the time of a closed form.

    Args:
        deadline: The time, as of `loop.time()`.
        operation: What to await.

    Returns:
        The result of the operation.

    Raises:
        TimeoutError: The operation was not done in time; it was cancelled.
    """
    steps = operation.__await__()
    try:
        obstacle = next(steps)
    except StopIteration as done:
        return cast("T", done.value)
    async with asyncio.timeout_at(deadline):
        return await _Rest(steps, obstacle)


class _Rest(Generic[T]):
    """Continues an operation that has begun, as the task would that had awaited it from the beginning.

    Args:
        steps: The iterator of the operation.
        obstacle: What its first step waits for.
    """

    def __init__(self, steps: Generator[Any, Any, T], obstacle: object) -> None:
        self._steps = steps
        self._obstacle = obstacle

    def __await__(self) -> Generator[Any, Any, T]:
        """Wait for the obstacle, then go on; a cancellation reaches the operation."""
        steps, obstacle = self._steps, self._obstacle
        while True:
            try:
                yield obstacle
            except BaseException as error:  # noqa: BLE001 - whatever the task throws into what it awaits
                try:
                    obstacle = steps.throw(error)
                except StopIteration as done:
                    return cast("T", done.value)
            else:
                return (yield from steps)
