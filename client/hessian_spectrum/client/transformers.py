"""Callback for the `Trainer` of transformers that tracks a training run. Needs `transformers`.

```python
trainer = Trainer(..., callbacks=[SpectrumCallback(client, loss="cross-entropy", data=(x, y), every=50)])
```
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from transformers import TrainerCallback

from hessian_spectrum.client.tracking.steps import TrackedSteps

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

    from hessian_spectrum.client.http import SpectrumClient
    from hessian_spectrum.client.tracking.tracker import Tracker


class Logits(nn.Module):
    """A model of transformers as a network: one input, such as the ids of tokens, and its logits as the output.

    Args:
        model: The model, which is the submodule `model`.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._input = str(getattr(model, "main_input_name", "input_ids"))
        has_cache = hasattr(getattr(model, "config", None), "use_cache")
        self._options = {"use_cache": False} if has_cache else {}

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        outputs = self.model(**{self._input: x}, **self._options)
        logits: Tensor = outputs["logits"]
        return logits


class SpectrumCallback(TrainerCallback):
    """Tracks a run of a `Trainer`, in its first process, as `SpectrumClient.track` does.

    The first point holds the parameters before training, and its step is the trainer's `global_step`. The learning rate
    is that of the optimizer's first group of parameters.

    The `Trainer` does not tell its callbacks of errors: after one, the points stay on disk for `spectrum track send`,
    unless you close `tracker`.

    Args:
        client: Client of the server.
        module: Returns the module to measure from the model; by default `Logits`, so that names of parameters begin
            with `model.`. A model with several inputs needs a module of its own.
        **options: Arguments of `SpectrumClient.track`; `every` counts steps of the optimizer.
    """

    def __init__(
        self, client: "SpectrumClient", *, module: Callable[[Any], nn.Module] = Logits, **options: Any
    ) -> None:
        self._steps = TrackedSteps(client, options)
        self._module = module

    @property
    def tracker(self) -> "Tracker | None":
        """The tracker; None before training, and in other processes than the first."""
        return self._steps.tracker

    def on_train_begin(
        self, args: "TrainingArguments", state: "TrainerState", control: "TrainerControl", **objects: Any
    ) -> None:
        """Export the model and record the parameters before training."""
        if state.is_world_process_zero:
            self._steps.start(self._module(objects["model"]), state.global_step, objects.get("optimizer"))

    def on_step_end(
        self, args: "TrainingArguments", state: "TrainerState", control: "TrainerControl", **objects: Any
    ) -> None:
        """Record the parameters after a step of the optimizer."""
        self._steps.reach(state.global_step, objects.get("optimizer"))

    def on_train_end(
        self, args: "TrainingArguments", state: "TrainerState", control: "TrainerControl", **objects: Any
    ) -> None:
        """Send the rest."""
        self._steps.end()
