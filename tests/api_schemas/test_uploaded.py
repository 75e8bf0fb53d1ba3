"""Samples in uploaded files: what the server fills in about their arrays, and what does not belong together."""

from typing import Any

import pytest
from pydantic import ValidationError

from hessian_spectrum.api_schemas.artifacts import CONTEXT, ArtifactError, StoredArray, WholeNumbers
from hessian_spectrum.api_schemas.data import ArrayData, PartsData


def whole(smallest: int | None, largest: int | None, num_ignored: int = 0) -> WholeNumbers:
    return WholeNumbers(smallest=smallest, largest=largest, num_ignored=num_ignored)


def array(dtype: Any, *shape: int, numbers: WholeNumbers | None = None) -> StoredArray:
    return StoredArray(dtype=dtype, shape=list(shape), whole_numbers=numbers)


FILES = {
    "1" * 64: {"x": array("U8", 3, 2, numbers=whole(0, 9)), "y": array("I16", 3, numbers=whole(None, None, 3))},
    "2" * 64: {"x": array("U8", 5, 2, numbers=whole(4, 200)), "y": array("I16", 5, numbers=whole(-1, 6, 1))},
    "3" * 64: {"x": array("F32", 5, 2), "y": array("I16", 5, numbers=whole(0, 1))},
    "4" * 64: {"x": array("U8", 5, 3, numbers=whole(0, 1)), "y": array("I16", 5, numbers=whole(0, 1))},
    "5" * 64: {"x": array("U8", 5, 2, numbers=whole(0, 1))},
    "6" * 64: {"tokens": array("I64", 4, 7, numbers=whole(0, 1)), "mask": array("BOOL", 4, 7, numbers=whole(0, 1))},
    "7" * 64: {"y": array("I64", 4)},
    "8" * 64: {"x": array("F32", 4), "y": array("F32", 5)},
}


class Catalog:
    def arrays(self, artifact_id: str) -> dict[str, StoredArray]:
        if artifact_id not in FILES:
            raise ArtifactError("there is no such artifact")
        return FILES[artifact_id]


def parts(*digits: str, **fields: Any) -> PartsData:
    message = {"kind": "parts", "parts": [64 * digit for digit in digits]} | fields
    return PartsData.model_validate(message, context={CONTEXT: Catalog()})


def artifact(digit: str, **fields: Any) -> ArrayData:
    return ArrayData.model_validate({"kind": "artifact", "id": 64 * digit} | fields, context={CONTEXT: Catalog()})


def test_parts_are_described_as_one() -> None:
    data = parts("1", "2", "1")
    assert data.x == array("U8", 11, 2, numbers=whole(0, 200))
    assert data.y == array("I16", 11, numbers=whole(-1, 6, 7))
    assert data.num_samples == 11
    assert PartsData.model_validate_json(data.model_dump_json()) == data


def test_arrays_of_other_names_are_inputs() -> None:
    data = artifact("6")
    assert (data.x, data.y) == (None, None)
    assert data.stored_inputs == FILES[64 * "6"]
    assert ArrayData.model_validate_json(data.model_dump_json()) == data
    assert artifact("5").y is None


@pytest.mark.parametrize(
    ("make", "place", "message"),
    [
        (lambda: parts("1", "3"), ("parts",), "parts differ in x: F32"),
        (lambda: parts("1", "4"), ("parts",), "parts differ in x"),
        (lambda: parts("1", "5"), ("parts", 1), "holds x, but part 0 holds x, y"),
        (lambda: parts("1", "9"), ("parts", 1), "no such artifact"),
        (parts, ("parts",), "at least 1"),
        (lambda: parts(*513 * ["1"]), ("parts",), "at most 512"),
        (lambda: artifact("7"), ("id",), "no inputs"),
        (lambda: artifact("8"), ("id",), "y holds 5 samples, x holds 4"),
        (lambda: artifact("1", x={"dtype": "U8", "shape": [9, 9]}), ("x",), "leave it out"),
        (lambda: artifact("1", scaling={"z": {}}), ("scaling", "z"), "no such array"),
        (lambda: artifact("1", scaling={"x": {"mean": [1.0]}}), ("scaling", "x"), "1 entries do not fit axis 1"),
        (lambda: artifact("1", scaling={"y": {"mean": [1.0]}}), ("scaling", "y"), "1 entries do not fit axis 1"),
        (
            lambda: artifact("1", scaling={"x": {"mean": [1.0, 2.0], "std": [1.0]}}),
            ("scaling", "x", "std"),
            "mean has 2",
        ),
        (lambda: artifact("1", scaling={"x": {"std": [1.0, 0.0]}}), ("scaling", "x", "std"), "greater than 0"),
        (lambda: artifact("1", scaling={"x": {"axis": 0}}), ("scaling", "x", "axis"), "greater than or equal to 1"),
    ],
)
def test_what_does_not_belong_together_is_refused(make: Any, place: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        make()
    errors = caught.value.errors()
    assert any(error["loc"][: len(place)] == place and message in error["msg"] for error in errors), errors


def test_a_message_without_a_catalog_must_describe_its_arrays() -> None:
    with pytest.raises(ValidationError, match="field required"):
        ArrayData.model_validate({"kind": "artifact", "id": 64 * "1"})
