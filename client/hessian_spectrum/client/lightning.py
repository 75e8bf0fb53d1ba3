"""Callback for Lightning that tracks a training run. Needs `lightning` or `pytorch-lightning`.

```python
trainer = Trainer(callbacks=[SpectrumCallback(client, loss="cross-entropy", data=(x, y), every=50)])
```
"""

import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from hessian_spectrum.client.tracking.steps import TrackedSteps

if TYPE_CHECKING:
    from torch import nn

    from hessian_spectrum.client.http import SpectrumClient
    from hessian_spectrum.client.tracking.tracker import Tracker


def _callback_class() -> Any:
    """Return the class of callbacks of the package that is used, of the two under which Lightning is published."""
    names = ["lightning", "pytorch_lightning"]
    for name in sorted(names, key=lambda each: each not in sys.modules):
        if find_spec(name) is not None:
            return import_module({"lightning": "lightning.pytorch"}.get(name, name)).Callback
    raise ImportError("install lightning or pytorch-lightning to use hessian_spectrum.client.lightning")


class SpectrumCallback(_callback_class()):  # type: ignore[misc]
    """Tracks a run of Lightning's `Trainer`, in its first process, as `SpectrumClient.track` does.

    The first point holds the parameters before training, and its step is the trainer's `global_step`. The learning rate
    is that of the first optimizer.

    Args:
        client: Client of the server.
        module: Returns the module to measure from the `LightningModule`, such as `lambda module: module.network`; None:
            the `LightningModule` itself, whose `forward` then returns one array.
        **options: Arguments of `SpectrumClient.track`; `every` counts steps of the optimizer.
    """

    def __init__(
        self, client: "SpectrumClient", *, module: "Callable[[Any], nn.Module] | None" = None, **options: Any
    ) -> None:
        super().__init__()
        self._steps = TrackedSteps(client, options)
        self._module = module

    @property
    def tracker(self) -> "Tracker | None":
        """The tracker; None before training, and in other processes than the first."""
        return self._steps.tracker

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Export the module and record the parameters before training."""
        if trainer.is_global_zero:
            module = pl_module if self._module is None else self._module(pl_module)
            self._steps.start(module, trainer.global_step, next(iter(trainer.optimizers), None))

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Record the parameters after a step of the optimizer."""
        self._steps.reach(trainer.global_step, next(iter(trainer.optimizers), None))

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Send the rest."""
        self._steps.end()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Send the rest: after an error, Lightning does not call `teardown`."""
        self._steps.end()
