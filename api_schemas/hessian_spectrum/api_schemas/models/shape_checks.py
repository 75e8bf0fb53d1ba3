"""Arrays of one message whose shapes must fit each other."""

from hessian_spectrum.api_schemas.message import misfit


def check_shape(name: str, have: tuple[int, ...], other: str, wanted: tuple[int, ...]) -> None:
    """Raises:  ValidationError at `name` unless it has the shape of the other."""
    if have != wanted:
        raise misfit(name, message=f"{name} holds {_spelled(have)}, {other} holds {_spelled(wanted)}")


def _spelled(sizes: tuple[int, ...]) -> str:
    return " x ".join(map(str, sizes)) + " numbers"
