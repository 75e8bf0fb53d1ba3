"""A closed form and a job by the client of openapi-python-client; the argument is the address of the server."""

import json
import sys

from spectrum_api import Client
from spectrum_api.api.closed_forms import compute_closed_form
from spectrum_api.api.jobs import (
    get_job_result,
    get_job_result_npz,
    get_job_result_png,
    get_job_result_svg,
    submit_job,
)
from spectrum_api.models import (
    ClosedFormRequest,
    CrossEntropyLoss,
    DigitsData,
    ExactMethod,
    LanczosMethod,
    LanczosResult,
    Mlp,
    QuadraticForm,
    SpectrumRequest,
)

client = Client(base_url=sys.argv[1], raise_on_unexpected_status=True)


def job(method: ExactMethod | LanczosMethod) -> SpectrumRequest:
    return SpectrumRequest(
        kind="spectrum",
        model=Mlp(kind="mlp", widths=[64, 4, 10]),
        data=DigitsData(kind="digits", num_samples=32),
        loss=CrossEntropyLoss(kind="cross-entropy"),
        method=method,
    )


form = ClosedFormRequest(model=QuadraticForm(kind="quadratic", matrix=[[4.0, 4.0], [4.0, 16.0]]))
spectrum = compute_closed_form.sync(client=client, body=form)
mistaken = ExactMethod(kind="exact")
mistaken.eigenvectors = 5
refused = submit_job.sync(client=client, body=job(mistaken))
submitted = submit_job.sync(
    client=client, body=job(LanczosMethod(kind="lanczos", num_steps=5, num_probes=2)), prefer="wait=60"
)
result = get_job_result.sync(submitted.id, client=client)
assert isinstance(result, LanczosResult)
files = {
    name: function.sync(submitted.id, client=client).payload.read()
    for name, function in {
        "npz": get_job_result_npz,
        "png": get_job_result_png,
        "svg": get_job_result_svg,
    }.items()
}
found = {
    "sharpness": spectrum.sharpness,
    "refused": [error.loc for error in refused.errors],
    "state": submitted.state,
    "largest": result.largest.value,
    "points": len(result.density.grid),
    "npz": list(files["npz"][:4]),
    "png": list(files["png"][:4]),
    "svg": files["svg"][:5].decode(),
}
print(json.dumps(found))
