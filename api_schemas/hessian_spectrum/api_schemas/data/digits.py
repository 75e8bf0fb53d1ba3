"""Small images of digits."""

from typing import Literal

from pydantic import Field

from hessian_spectrum.api_schemas.data.kind import DataKind, DataMessage, check_widths
from hessian_spectrum.api_schemas.losses import AnyLoss
from hessian_spectrum.api_schemas.message import Seed
from hessian_spectrum.api_schemas.models import Model

DIGITS_PIXELS, DIGITS_CLASSES = 64, 10


class DigitsData(DataMessage):
    """The real 8x8 digits of scikit-learn, pixels / 16: the first `num_samples` of an order drawn from the seed.

    The transform `standardised` shifts and scales every pixel to mean 0 and variance 1 over the samples; pixels that
    are the same in all of them become 0.
    """

    kind: Literal["digits"]
    num_samples: int = Field(default=512, ge=1, le=1797, description="Number of images, of the 1,797 that there are.")
    transform: Literal["none", "standardised"] = Field(
        default="none", description="Transformation of the pixels; `none` leaves them between 0 and 1."
    )
    seed: Seed = Field(default=0, description="Seed of the order from which the first images are taken.")


def _check(model: Model, data: DigitsData, loss: AnyLoss | None) -> None:
    check_widths(model, (DIGITS_PIXELS, DIGITS_CLASSES), "digits")


KINDS = (
    DataKind(
        DigitsData,
        num_samples=lambda data: data.num_samples,
        num_numbers=lambda data: data.num_samples * (DIGITS_PIXELS + 1),
        checks={"vectors": _check},
        targets="labels",
        example={
            "model": {"kind": "mlp", "widths": [64, 2, 10], "activation": "tanh"},
            "data": {"kind": "digits", "num_samples": 16},
            "loss": "cross-entropy",
        },
        position=4,
    ),
)
