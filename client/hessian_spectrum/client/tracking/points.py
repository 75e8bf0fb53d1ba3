"""Points of a tracked run that the server does not have yet, in order, and which of them can be spared."""

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice


@dataclass(frozen=True)
class Point:
    """Parameters at one step.

    Attributes:
        sequence: Position among the points of the run.
        step: Label of the point.
        learning_rate: Learning rate at this step; None if unknown.
        parameters: Digest of the file of the parameters, which is its id on the server.
    """

    sequence: int
    step: int
    learning_rate: float | None
    parameters: str


class PointQueue:
    """Points in the order of their sequence numbers.

    The gap of a point is the step of the next point less that of the point before it. Gaps are kept in order, so that
    the number of comparisons of each operation grows with the logarithm of the number of points.
    """

    def __init__(self) -> None:
        self._points: dict[int, Point] = {}
        self._sequences: list[int] = []
        self._at_step: defaultdict[int, list[int]] = defaultdict(list)
        self._held: set[int] = set()
        self._gaps: list[tuple[int, int]] = []  # of points that can be spared, with their sequence numbers

    def __len__(self) -> int:
        return len(self._points)

    def __contains__(self, sequence: int) -> bool:
        return sequence in self._points

    def __getitem__(self, sequence: int) -> Point:
        return self._points[sequence]

    def first(self, number: int) -> list[Point]:
        """Return the first points, in order."""
        return [self._points[each] for each in islice(self._sequences, number)]

    def append(self, point: Point) -> None:
        """Add a point, whose sequence number is larger than all others."""
        self._points[point.sequence] = point
        self._sequences.append(point.sequence)
        self._at_step[point.step].append(point.sequence)
        self._keep_gap(len(self._sequences) - 2)

    def remove(self, sequence: int) -> Point:
        """Remove a point, and return it."""
        index = bisect_left(self._sequences, sequence)
        for changed in (index - 1, index, index + 1):
            self._drop_gap(changed)
        point = self._points.pop(sequence)
        del self._sequences[index]
        self._held.discard(sequence)
        same_step = self._at_step[point.step]
        same_step.remove(sequence)
        if not same_step:
            del self._at_step[point.step]
        for changed in (index - 1, index):
            self._keep_gap(changed)
        return point

    def hold(self, sequences: Iterable[int]) -> None:
        """Keep points until they are removed: they are no longer among those that wait or can be spared."""
        for sequence in sequences:
            self._drop_gap(bisect_left(self._sequences, sequence))
            self._held.add(sequence)

    def waiting_at(self, step: int) -> list[int]:
        """Return the sequence numbers of the points at a step that are not held."""
        return [each for each in self._at_step.get(step, ()) if each not in self._held]

    def to_spare(self, next_step: int) -> int | None:
        """Return the sequence number of the point with the smallest gap, the earlier one of two with the same.

        Args:
            next_step: Step of the point that will be appended, which gives the last one a gap.

        Returns:
            The sequence number; None if there is only the first point, and points that are held.
        """
        candidates = self._gaps[:1]
        if len(self._sequences) > 1 and self._sequences[-1] not in self._held:
            before, last = self._sequences[-2:]
            candidates.append((next_step - self._points[before].step, last))
        return min(candidates)[1] if candidates else None

    def _gap(self, index: int) -> tuple[int, int] | None:
        """Return the gap of a point between two others, unless it is held."""
        if not 0 < index < len(self._sequences) - 1 or self._sequences[index] in self._held:
            return None
        before, sequence, after = self._sequences[index - 1 : index + 2]
        return self._points[after].step - self._points[before].step, sequence

    def _keep_gap(self, index: int) -> None:
        if (gap := self._gap(index)) is not None:
            insort(self._gaps, gap)

    def _drop_gap(self, index: int) -> None:
        if (gap := self._gap(index)) is not None:
            del self._gaps[bisect_left(self._gaps, gap)]
