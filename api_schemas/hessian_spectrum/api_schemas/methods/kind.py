"""The entry of a method, apart from torch: its request, its result, the work that it does, and its limits."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from hessian_spectrum.api_schemas.models.kind import KindMessage, fields_of, kind_name
from hessian_spectrum.api_schemas.spectrum_results import MethodResult
from hessian_spectrum.planning.work import Work


class MethodMessage(KindMessage):
    """The method in a request, with its settings."""

    method_kind: ClassVar["MethodKind"]

    @property
    def is_float64_by_default(self) -> bool:
        """Whether products are in float64 if the request does not state a precision."""
        return self.method_kind.assembles_matrix


@dataclass(frozen=True)
class MatrixProperties:
    """Properties of the matrix on which the work of a method may depend.

    Attributes:
        dim: Number of rows.
        is_reduced: Whether products are of a reduced precision, tf32 or bfloat16.
        is_layered: Whether the engine assembles a dense matrix by way of pre-activations.
        gram_order: Number of rows of a factor B with the matrix B^T B + c I, if it is such a matrix; None: not known.
    """

    dim: int
    is_reduced: bool = False
    is_layered: bool = False
    gram_order: int | None = None


@dataclass(frozen=True)
class StoredVectors:
    """Vectors as long as the matrix that are stored in the npz file only.

    Attributes:
        field: Field of the method that asks for them.
        number: Number of vectors.
        itemsize: Bytes per number; None: those of the precision of the products.
        arrays: Names of the arrays in the npz file and of the attributes of the engine's result.
    """

    field: str
    number: int
    itemsize: int | None = None
    arrays: tuple[str, ...] = ()


@dataclass(frozen=True)
class MethodKind:
    """A method of spectrum jobs, which `METHODS` of a module in `curvature.algorithms` computes.

    Attributes:
        message: Request for the method, with a field `kind`.
        result: Result, whose field `method` has the same value as `kind`. Its fields are those of the engine's result
            of the same names, and those of `result_fields`.
        work: Products, memory and other work of a message for a matrix, with as little memory as it can do with.
        example: A small request.
        num_result_numbers: Numbers in the result's document, for so many rows.
        stored_vectors: Vectors that the npz file holds beside the document, for so many rows; None: none.
        check: Raises a ValidationError if the method cannot be applied to so many rows; None: it always can.
        has_fixed_products: Whether the number of products is known in advance; None: it always is.
        result_fields: Fields of the result that follow from the request, for so many rows; fields of the request that
            the result has, too, need not be among them.
        engine_arguments: Keyword arguments of the engine's method.
        assembles_matrix: Whether the dense matrix is assembled: in float64 by default, and block by block.
        position: Position in lists of methods; new ones come last, in the order of their names.
    """

    message: type[MethodMessage]
    result: type[MethodResult]
    work: Callable[[Any, MatrixProperties], Work]
    example: Mapping[str, Any]
    num_result_numbers: Callable[[Any, int], int] = lambda _method, _dim: 0
    stored_vectors: Callable[[Any, int], StoredVectors | None] | None = None
    check: Callable[[Any, int], None] | None = None
    has_fixed_products: Callable[[Any], bool] | None = None
    result_fields: Callable[[Any, int], dict[str, Any]] = lambda _method, _dim: {}
    engine_arguments: Callable[[Any], dict[str, Any]] = fields_of
    assembles_matrix: bool = False
    position: int = 100

    @property
    def name(self) -> str:
        """The value of the message's field `kind`."""
        return kind_name(self.message)
