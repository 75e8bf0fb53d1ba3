"""Arrays of numbers in a request: nested lists in JSON; in Python also array objects, checked by shape and dtype."""

from collections.abc import Callable
from typing import Annotated, Any, Protocol, runtime_checkable

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from hessian_spectrum.api_schemas.message import Rows, Vector, VectorOrRows, misfit

_DTYPES = {"f": (4, 8), "i": (1, 2, 4, 8), "u": (1, 2, 4, 8)}


@runtime_checkable
class Array(Protocol):
    """The attributes that NumPy arrays and similar objects share; no JSON value has them."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Length along each dimension."""
        ...

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        ...

    @property
    def dtype(self) -> Any:
        """Data type; an object with `kind` and `itemsize`."""
        ...

    def __len__(self) -> int: ...


class _OrArray:
    """Accepts, beside the lists of a type, arrays of floats or integers with one of the given numbers of dimensions.

    Array objects are neither copied nor checked for NaN and infinity, and JSON bodies contain none. Whoever builds them
    rejects NaN and infinity, as the service does when it reads an upload.
    """

    def __init__(self, lists: Any, *num_dimensions: int) -> None:
        self._lists = lists
        self._num_dimensions = num_dimensions

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        lists = handler.generate_schema(self._lists)
        either = core_schema.no_info_wrap_validator_function(self._validate, lists)
        return core_schema.json_or_python_schema(json_schema=lists, python_schema=either)

    def _validate(self, value: Any, validate_lists: Callable[[Any], Any]) -> Any:
        if not isinstance(value, Array):
            return validate_lists(value)
        if value.dtype.itemsize not in _DTYPES.get(value.dtype.kind, ()):
            raise misfit(message=f"is an array of {value.dtype!s:.32}; it must hold float32, float64 or integers")
        if value.ndim not in self._num_dimensions:
            allowed = " or ".join(map(str, self._num_dimensions))
            raise misfit(message=f"is an array of {value.ndim} dimensions; it must have {allowed}")
        if 0 in value.shape:
            raise misfit(message="must not be empty")
        return value


ArrayVector = Annotated[list[float] | Array, _OrArray(Vector, 1)]
ArrayRows = Annotated[list[list[float]] | Array, _OrArray(Rows, 2)]
ArrayVectorOrRows = Annotated[list[float] | list[list[float]] | Array, _OrArray(VectorOrRows, 1, 2)]

AnyNumbers = list[float] | list[list[float]] | Array


def shape(values: AnyNumbers) -> tuple[int, ...]:
    """Length of a vector, or numbers of rows and columns."""
    if isinstance(values, list):
        first = values[0]
        return (len(values), len(first)) if isinstance(first, list) else (len(values),)
    return values.shape
