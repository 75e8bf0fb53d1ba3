"""A closed form and a job by the models of datamodel-code-generator; the argument is the address of the server."""

import json
import sys

import httpx
from pydantic import BaseModel
from spectrum_models import ClosedFormRequest, ClosedFormSpectrum, Job, JobRequest, JobResult, LanczosResult, Problem

http = httpx.Client(base_url=sys.argv[1], timeout=90)


def post(path: str, message: BaseModel, **headers: str) -> httpx.Response:
    """The message as it is, with every default that the models hold."""
    return http.post(path, content=message.model_dump_json(), headers={"Content-Type": "application/json"} | headers)


FORM = {"model": {"kind": "quadratic", "matrix": [[4, 4], [4, 16]]}}
JOB = {
    "kind": "spectrum",
    "model": {"kind": "mlp", "widths": [64, 4, 10]},
    "data": {"kind": "digits", "num_samples": 32},
    "loss": "cross-entropy",
    "method": {"kind": "lanczos", "num_steps": 5, "num_probes": 2},
}
form = ClosedFormRequest.model_validate(FORM)
spectrum = ClosedFormSpectrum.model_validate_json(post("/v1/closed-form", form).content)
mistaken = JobRequest.model_validate(JOB | {"method": {"kind": "exact"}})
mistaken.root.method.eigenvectors = 5
refused = Problem.model_validate_json(post("/v1/jobs", mistaken).content)
submitted = Job.model_validate_json(post("/v1/jobs", JobRequest.model_validate(JOB), Prefer="wait=60").content)
result = JobResult.model_validate_json(http.get(f"/v1/jobs/{submitted.id}/result").content).root.root
assert isinstance(result, LanczosResult)
found = {
    "sharpness": spectrum.sharpness,
    "refused": [error.loc for error in refused.errors],
    "state": submitted.state.value,
    "largest": result.largest.value,
    "points": len(result.density.grid),
}
print(json.dumps(found))
