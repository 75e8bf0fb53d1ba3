"""Points of a tracked run: which one is dropped first, against its definition, for any order of events."""

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from hessian_spectrum.client.tracking.points import Point, PointQueue

EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(0, 30)),
        st.tuples(st.just("spare"), st.integers(0, 30)),
        st.tuples(st.sampled_from(["hold", "remove"]), st.integers(0, 100)),
    ),
    max_size=60,
)


def smallest_gap(points: Sequence[Point], held: set[int], next_step: int) -> int | None:
    """The definition, over all points."""
    steps = [*(point.step for point in points), next_step]
    gaps = [
        (steps[index + 1] - steps[index - 1], point.sequence)
        for index, point in enumerate(points)
        if index > 0 and point.sequence not in held
    ]
    return min(gaps)[1] if gaps else None


@settings(max_examples=300)
@given(EVENTS)
def test_the_point_that_is_spared_has_the_smallest_gap_of_those_that_wait(events: list[tuple[str, int]]) -> None:
    queue = PointQueue()
    points: list[Point] = []
    held: set[int] = set()
    for sequence, (event, number) in enumerate(events):
        if event == "append":
            points.append(Point(sequence, number, None, ""))
            queue.append(points[-1])
        elif event == "spare":
            assert queue.to_spare(number) == smallest_gap(points, held, number)
        elif points and event == "hold":
            first = [point.sequence for point in points[: number % 4]]
            queue.hold(first)
            held.update(first)
        elif points:
            removed = points.pop(number % len(points))
            assert queue.remove(removed.sequence) is removed
        assert queue.first(len(events)) == points
        assert len(queue) == len(points)
        for step in range(31):
            waiting = [point.sequence for point in points if point.step == step and point.sequence not in held]
            assert queue.waiting_at(step) == waiting
