"""Steps of a trainer that calls back: what the callbacks for Lightning and transformers share."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hessian_spectrum.client.http import SpectrumClient
    from hessian_spectrum.client.tracking.tracker import Tracker


class TrackedSteps:
    """Follows a trainer's number of optimizer steps; does nothing before `start`.

    Args:
        client: Client of the server.
        options: Arguments of `SpectrumClient.track`.

    Attributes:
        tracker: The tracker; None before `start`.
    """

    def __init__(self, client: "SpectrumClient", options: dict[str, Any]) -> None:
        self._client, self._options = client, options
        self.tracker: Tracker | None = None
        self._last_step = -1

    def start(self, module: Any, step: int, optimizer: Any) -> None:
        """Track a module, and record its parameters at this step."""
        self.end()
        self.tracker = self._client.track(module, **self._options)
        self._last_step = -1
        self.reach(step, optimizer)

    def reach(self, step: int, optimizer: Any) -> None:
        """Pass a step on, once even if several batches make it."""
        if self.tracker is not None and step > self._last_step:
            self._last_step = step
            self.tracker.step(step, _learning_rate(optimizer))

    def end(self) -> None:
        """Send the rest."""
        if self.tracker is not None:
            self.tracker.close()


def _learning_rate(optimizer: Any) -> float | None:
    groups = getattr(optimizer, "param_groups", None)
    return float(groups[0]["lr"]) if groups else None
