"""A problem can be sent whatever its texts repeat."""

import json

from hessian_spectrum.api_schemas.problem import FieldError, Problem


def test_half_a_surrogate_pair_is_replaced() -> None:
    error = FieldError(loc=["body", "x\ud800", 1], msg="\udfff is not a name")
    problem = Problem(title="Invalid request", status=422, detail="\ud800: \u00fc \U0001f600", errors=[error])
    sent = json.loads(problem.model_dump_json(exclude_none=True).encode())
    assert sent["detail"] == "?: \u00fc \U0001f600"
    assert sent["errors"] == [{"loc": ["body", "x?", 1], "msg": "? is not a name"}]
