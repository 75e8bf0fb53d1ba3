"""Selection of the parameters that belong to a block of the matrix."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from hessian_spectrum.curvature.parameters import ParameterLayout
from hessian_spectrum.quadrature.errors import InvalidProblemError

GROUP_COLUMNS = 256  # fewer than these are not worth a recording of their own


def select(names: Iterable[str], globs: str | Sequence[str] | None) -> list[str]:
    """Names that match a glob (*, ?, [...]; case-sensitive), or one of several, in their order.

    Args:
        names: Names of all parameters.
        globs: One glob or several; None selects all names.

    Returns:
        The matching names.

    Raises:
        InvalidProblemError: If no name matches.
    """
    names = list(names)
    if globs is None:
        return names
    patterns = [globs] if isinstance(globs, str) else globs
    chosen = [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]
    if not chosen:
        raise InvalidProblemError(f"no parameter matches {globs!r}; there are {', '.join(names[:20])}")
    return chosen


@dataclass(frozen=True)
class ColumnGroup:
    """Neighbouring parameters whose columns are computed together."""

    columns: ParameterLayout  # of the group
    rows: ParameterLayout  # of all parameters up to the group's last

    @property
    def start(self) -> int:
        """First column."""
        return self.rows.dim - self.columns.dim

    @property
    def stop(self) -> int:
        """One past the last column."""
        return self.rows.dim

    @property
    def num_columns(self) -> int:
        """Number of columns of the group."""
        return self.columns.dim


def column_groups(layout: ParameterLayout) -> list[ColumnGroup]:
    """All columns, in order, in groups of whole parameters."""
    groups: list[ColumnGroup] = []
    shapes = dict(zip(layout.names, layout.shapes, strict=True))
    group: dict[str, tuple[int, ...]] = {}
    done: dict[str, tuple[int, ...]] = {}
    for name, shape in shapes.items():
        group[name] = done[name] = shape
        if ParameterLayout.of(group).dim >= GROUP_COLUMNS or len(done) == len(shapes):
            groups.append(ColumnGroup(ParameterLayout.of(group), ParameterLayout.of(done)))
            group = {}
    return groups
