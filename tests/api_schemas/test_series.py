"""Merging the jobs of a series."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from hessian_spectrum.api_schemas.experiments.series import Overlaps, SeriesEntry, SeriesResult, merged_series
from hessian_spectrum.api_schemas.spectrum_results import Estimate

A, B = "a" * 64, "b" * 64


TOP_K, TRACE = {"top-k": A}, {"trace": A}


def part(*points: SeriesEntry, settings: str = A, methods: dict[str, str] = TOP_K) -> SeriesResult:
    return SeriesResult(
        name="run",
        matrix="hessian",
        settings_sha256=settings,
        methods=methods,
        points=list(points),
        num_parameters=1,
        provenance=[],
    )


def estimate(value: float) -> Estimate:
    return Estimate(value=value, standard_error=None, lower=value, upper=value)


def point(step: int, parameters: str = A, **fields: Any) -> SeriesEntry:
    return SeriesEntry(step=step, parameters_sha256=parameters, **fields)


def test_a_point_that_failed_later_does_not_replace_numbers() -> None:
    good, bad = point(3, loss=1.0), point(3, problem="out of memory")
    assert merged_series([("1", part(good)), ("2", part(bad))]).points[0].jobs == ["1"]
    assert merged_series([("1", part(bad)), ("2", part(good))]).points[0].jobs == ["2"]
    assert merged_series([("1", part(bad)), ("2", part(bad))]).points[0].jobs == ["2"]


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
    assert {each.step: each.jobs for each in found.points} == {step: [str(index)] for step, index in newest.items()}
    assert found.other_jobs == [str(index) for index in range(len(jobs)) if index not in alike]


def test_methods_complete_one_another() -> None:
    sharpness = part(point(0, largest=estimate(3.0)), point(1, largest=estimate(4.0)))
    trace = part(point(1, trace=estimate(9.0)), point(2, trace=estimate(8.0)), methods=TRACE)
    for parts in ([("1", sharpness), ("2", trace)], [("2", trace), ("1", sharpness)]):
        found = merged_series(parts)
        assert [each.largest and each.largest.value for each in found.points] == [3.0, 4.0, None]
        assert [each.trace and each.trace.value for each in found.points] == [None, 9.0, 8.0]
        assert [set(each.jobs) for each in found.points] == [{"1"}, {"1", "2"}, {"2"}]
        assert found.points[1].jobs[0] == parts[-1][0]
        assert (found.methods, found.other_jobs) == (TOP_K | TRACE, [])


def test_a_method_has_the_settings_of_its_newest_job() -> None:
    jobs = [("1", part(point(0, largest=estimate(3.0)), point(1, largest=estimate(4.0))))]
    jobs.append(("2", part(point(1, trace=estimate(9.0)), methods=TRACE)))
    jobs.append(("3", part(point(1, largest=estimate(4.5)), methods={"top-k": B})))
    found = merged_series(jobs)
    assert [(each.step, each.jobs, each.largest.value, each.trace.value) for each in found.points] == [
        (1, ["3", "2"], 4.5, 9.0)
    ]
    assert found.other_jobs == ["1"]


def test_numbers_of_other_parameters_are_not_added() -> None:
    first = part(point(0, A, trace=estimate(9.0)), methods=TRACE)
    found = merged_series([("1", first), ("2", part(point(0, B, largest=estimate(3.0))))])
    assert (found.points[0].trace, found.points[0].jobs) == (None, ["2"])


def test_eigenpairs_are_those_of_one_job() -> None:
    ends = {"which": "largest", "eigenpairs": [], "tolerance": 1e-5, "largest": estimate(3.0)}
    slices = {"which": "magnitude", "eigenpairs": [], "slopes": [0.5], "trace": estimate(1.0)}
    found = merged_series([("1", part(point(0, **slices), methods={"slice": A})), ("2", part(point(0, **ends)))])
    assert (found.points[0].which, found.points[0].slopes, found.points[0].jobs) == ("largest", None, ["2", "1"])
    assert found.points[0].trace == estimate(1.0)
