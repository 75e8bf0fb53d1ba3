"""Whether the parts of a spectrum request fit together; each error names the field to change."""

from hessian_spectrum.api_schemas.data import Data
from hessian_spectrum.api_schemas.data import kind_of as data_kind_of
from hessian_spectrum.api_schemas.losses import LOSSES, LossName, losses_where
from hessian_spectrum.api_schemas.message import misfit
from hessian_spectrum.api_schemas.models import Model, kind_of


def loss_of(model: Model, loss: LossName | None) -> LossName | None:
    """The loss that a request means: mse where the model has no other and none is named, None for a quadratic form.

    Raises:
        ValidationError: At `loss` if the model has no such loss, or several and none is named.
    """
    kind = kind_of(model)
    if kind.samples == "none":
        if loss is not None:
            raise misfit("loss", message="a quadratic form is its own loss")
        return None
    if kind.only_loss is not None:
        if loss not in (None, kind.only_loss):
            raise misfit("loss", message=f"the loss of {model.kind} is {kind.only_loss}")
        return kind.only_loss
    if loss is None:
        raise misfit("loss", message="field required")
    if kind.samples == "tokens" and not LOSSES[loss].predicts_tokens:
        losses = losses_where(predicts_tokens=True)
        raise misfit("loss", message=f"{model.kind} predicts tokens: its loss is {losses}")
    return loss


def check_loss(model: Model, data: Data | None, loss: LossName | None) -> None:
    """Raises:  ValidationError at `loss` if model or data have no such loss."""
    effective = loss_of(model, loss)
    target = data_kind_of(data).targets if data is not None else None
    if effective is None or target is None or target in LOSSES[effective].targets:
        return
    targets = {"numbers": "real targets", "labels": "class labels"}[target]
    assert data is not None
    raise misfit("loss", message=f"{data.kind} data have {targets}: their loss is {losses_where(target)}")


def check_training(model: Model, *, is_trained: bool) -> None:
    """Raises:  ValidationError at `train` if the model starts where its gradient is 0."""
    if is_trained and not kind_of(model).is_trainable:
        raise misfit(
            "train", message="a quadratic form is taken at its critical point, and has the same matrix anywhere"
        )


def check_data(model: Model, data: Data | None, loss: LossName | None) -> None:
    """Raises:  ValidationError at the field of `model` or `data` that does not fit the others."""
    kind = kind_of(model)
    if kind.samples == "none" and data is not None:
        raise misfit("data", message="a quadratic form takes no data")
    kind.check(model)
    if kind.samples == "none":
        return
    if data is None:
        raise misfit("data", message="field required")
    check = data_kind_of(data).checks.get(kind.samples)
    if check is None:
        raise misfit("data", "kind", message=f"{model.kind} takes no {data.kind} data")
    check(model, data, loss_of(model, loss))
