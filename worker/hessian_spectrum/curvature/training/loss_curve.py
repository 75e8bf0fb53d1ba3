"""The loss along a training run, in a bounded number of means."""

from dataclasses import dataclass, field
from typing import Any

from hessian_spectrum.curvature.serialization import serializable

MAX_MEANS = 256


@serializable()
@dataclass(eq=False)
class LossCurve:
    """Sums of the loss over equally many steps each; where there would be more than `MAX_MEANS`, pairs become one.

    Attributes:
        width: Number of steps of each sum; the last may be of fewer.
        sums: Sums in the order of the steps: numbers, or tensors (N,) of N runs.
        num_steps: Number of steps so far.
    """

    width: int = 1
    sums: list[Any] = field(default_factory=list)
    num_steps: int = 0

    def add(self, loss: Any) -> None:
        """Add the loss of the next step: a number, or a tensor (N,) of N runs with 0 for those that have ended."""
        if self.num_steps % self.width:
            self.sums[-1] = self.sums[-1] + loss
        else:
            if len(self.sums) == MAX_MEANS:
                self.sums = [first + second for first, second in zip(self.sums[::2], self.sums[1::2], strict=True)]
                self.width *= 2
            self.sums.append(loss)
        self.num_steps += 1

    def of_run(self, run: int, num_steps: int) -> "LossCurve":
        """Return the curve of one of N runs.

        Args:
            run: Index of the run.
            num_steps: Number of its steps.
        """
        num_sums = -(-num_steps // self.width)
        return LossCurve(self.width, [float(each[run]) for each in self.sums[:num_sums]], num_steps)

    def points(self) -> tuple[list[int], list[float]]:
        """Return the number of steps done at the end of each mean, and the mean losses."""
        starts = range(0, self.num_steps, self.width)
        ends = [min(start + self.width, self.num_steps) for start in starts]
        return ends, [total / (end - start) for start, end, total in zip(starts, ends, self.sums, strict=True)]
