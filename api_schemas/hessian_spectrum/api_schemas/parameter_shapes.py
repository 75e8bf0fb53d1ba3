"""Names and shapes of the parameters of every model, which a block chooses from; the engine's models have the same."""

import re
from collections.abc import Mapping
from fnmatch import translate
from math import prod

from hessian_spectrum.api_schemas.message import misfit
from hessian_spectrum.api_schemas.models import Model, kind_of
from hessian_spectrum.api_schemas.models.kind import Place, Shapes

__all__ = ["Place", "Shapes", "block_dims", "block_shapes", "parameter_shapes"]

_MAX_NAMES_SHOWN = 20


def parameter_shapes(model: Model) -> Shapes:
    """Shape of each parameter of the model."""
    return kind_of(model).parameter_shapes(model)


def block_shapes(model: Model, globs: Mapping[Place, str]) -> Shapes:
    """Those whose names match one of the globs (*, ?, [...]; case counts), each by its place in the request; {}: all.

    Raises:
        ValidationError: At the place of a glob that none matches.
    """
    shapes = parameter_shapes(model)
    if not globs:
        return shapes
    chosen = {name for place, glob in globs.items() for name in _matching(shapes, place, glob)}
    return {name: size for name, size in shapes.items() if name in chosen}


def block_dims(model: Model, globs: Mapping[Place, str]) -> tuple[int, ...]:
    """How many numbers all these parameters have together, then those of each glob alone; names are read once.

    Raises:  as `block_shapes`.
    """
    sizes = {name: prod(size) for name, size in parameter_shapes(model).items()}
    if not globs:
        return (sum(sizes.values()),)
    blocks = [_matching(sizes, place, glob) for place, glob in globs.items()]
    chosen = blocks if len(blocks) == 1 else [{name for names in blocks for name in names}, *blocks]
    return tuple(sum(map(sizes.__getitem__, names)) for names in chosen)


def _matching(names: Mapping[str, object], place: Place, glob: str) -> list[str]:
    """Raises:  ValidationError at the place of a glob that matches none."""
    matching = list(filter(re.compile(translate(glob)).match, names))
    if not matching:
        raise misfit(*place, message=f"no parameter has such a name; there are {_listed(names)}")
    return matching


def _listed(shapes: Mapping[str, object]) -> str:
    names = list(shapes)
    rest = len(names) - _MAX_NAMES_SHOWN
    return ", ".join(names[:_MAX_NAMES_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
