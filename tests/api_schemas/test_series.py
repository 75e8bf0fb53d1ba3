"""Merging the jobs of a series."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from hessian_spectrum.api_schemas.experiments.series import Overlaps, SeriesEntry, SeriesResult, merged_series

A, B = "a" * 64, "b" * 64


def part(*points: SeriesEntry, settings: str = A) -> SeriesResult:
    return SeriesResult(
        name="run", matrix="hessian", settings_sha256=settings, points=list(points), num_parameters=1, provenance=[]
    )


def point(step: int, parameters: str = A, **fields: Any) -> SeriesEntry:
    return SeriesEntry(step=step, parameters_sha256=parameters, **fields)


def test_a_point_that_failed_later_does_not_replace_numbers() -> None:
    good, bad = point(3, loss=1.0), point(3, problem="out of memory")
    assert merged_series([("1", part(good)), ("2", part(bad))]).points[0].job == "1"
    assert merged_series([("1", part(bad)), ("2", part(good))]).points[0].job == "2"
    assert merged_series([("1", part(bad)), ("2", part(bad))]).points[0].job == "2"


def test_overlaps_need_the_parameters_at_both_steps() -> None:
    overlaps = Overlaps(since_step=0, spaces=[])
    first = part(point(0), point(1, overlaps=overlaps))
    for later, expected in (
        (point(0), overlaps),
        (point(1), overlaps),
        (point(0, B), None),
        (point(1, B), None),
    ):
        found = merged_series([("1", first), ("2", part(later))])
        assert found.points[1].overlaps == expected


@given(st.lists(st.tuples(st.sampled_from([A, B]), st.sets(st.integers(0, 4), min_size=1)), min_size=1, max_size=5))
def test_only_jobs_with_the_settings_of_the_newest_count(jobs: list[tuple[str, set[int]]]) -> None:
    parts = [(str(index), part(*map(point, steps), settings=own)) for index, (own, steps) in enumerate(jobs)]
    found = merged_series(parts)
    alike = [index for index, (own, _) in enumerate(jobs) if own == jobs[-1][0]]
    newest = {step: index for index in alike for step in jobs[index][1]}
    assert {each.step: each.job for each in found.points} == {step: str(index) for step, index in newest.items()}
    assert found.other_jobs == [str(index) for index in range(len(jobs)) if index not in alike]
