"""Request and response of `POST /v1/closed-form/batch`."""

from pydantic import Field, SkipValidation

from hessian_spectrum.api_schemas.closed_form import ClosedFormRequest, ClosedFormSpectrum
from hessian_spectrum.api_schemas.message import Message, RequestMessage
from hessian_spectrum.api_schemas.problem import Problem

MAX_ITEMS = 100_000


class ClosedFormBatch(RequestMessage):
    """Many requests for a closed form; each is validated on its own, so that a wrong one fails alone."""

    items: list[SkipValidation[ClosedFormRequest]] = Field(
        max_length=MAX_ITEMS, description="Requests, each as for a single closed form."
    )


class FailedItem(Message):
    """An item of a batch that has no result."""

    problem: Problem = Field(description="Why there is no result; `errors` name the item by its index.")


class ClosedFormBatchResult(Message):
    """The results of a batch, in the order of its items."""

    results: list[ClosedFormSpectrum | FailedItem] = Field(
        description="Spectrum of each item, or the problem of an item that has none."
    )
