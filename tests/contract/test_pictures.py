"""Pictures over HTTP: formats, size, title, and the diagonal of a trace, which lies beside its result."""

import io
import re
import struct
from typing import Any

import httpx
import numpy as np
import pytest

from hessian_spectrum.client.http import SpectrumClient

TRACE: dict[str, Any] = {
    "kind": "spectrum",
    "model": {"kind": "mlp", "widths": [2, 3, 1]},
    "data": {"kind": "inline", "x": [[1.0, 2.0], [0.5, -1.0]], "y": [0.5, -1.0]},
    "loss": "mse",
    "method": {"kind": "trace", "num_probes": 6, "diagonal": True},
}
LINEAR = {"model": {"kind": "linear", "w": [0.5, -1.0], "v": [1.0, 0.5]}, "data": {"x": [1.0], "y": [0.8]}}
SECONDS = 60
WIGNER = {"law": "wigner", "points": [0.0]}


@pytest.fixture(scope="module")
def job_id(server: Any) -> str:
    with SpectrumClient(server.url) as client:
        return client.wait(client.submit(TRACE).id).id


def test_every_answer_can_be_had_as_pdf(server: Any, job_id: str) -> None:
    accept = {"Accept": "application/pdf"}
    for answer in (
        httpx.get(f"{server.url}/v1/jobs/{job_id}/result", headers=accept, timeout=SECONDS),
        httpx.get(f"{server.url}/v1/jobs/{job_id}/result.pdf", timeout=SECONDS),
        httpx.post(f"{server.url}/v1/closed-form", json=LINEAR, headers=accept, timeout=SECONDS),
        httpx.post(f"{server.url}/v1/random-matrix", json=WIGNER, headers=accept, timeout=SECONDS),
    ):
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/pdf"
        assert answer.content.startswith(b"%PDF")


def test_a_picture_has_the_size_and_title_that_were_asked_for(server: Any, job_id: str) -> None:
    wish = {"width_inches": 4, "height_inches": 3, "dpi": 100, "title": "Figure 1: what & why"}
    for method, path, body in (
        ("GET", f"jobs/{job_id}/result", None),
        ("POST", "closed-form", LINEAR),
        ("POST", "random-matrix", WIGNER),
    ):
        url = f"{server.url}/v1/{path}"
        png = httpx.request(method, url, json=body, params=wish, headers={"Accept": "image/png"}, timeout=SECONDS)
        assert struct.unpack(">II", png.content[16:24]) == (400, 300)
        svg = httpx.request(method, url, json=body, params=wish, headers={"Accept": "image/svg+xml"}, timeout=SECONDS)
        assert "Figure 1: what &amp; why</text>" in svg.text
        assert 'width="288pt"' in svg.text


@pytest.mark.parametrize(
    ("query", "field", "said"),
    [
        ("png?dpi=601", "dpi", "less than or equal to 600"),
        ("png?width_inches=1e9", "width_inches", "less than or equal to 20"),
        ("png?height_inches=nan", "height_inches", "finite number"),
        ("pdf?width_inches=20&height_inches=20&dpi=600", "dpi", "12,000 x 12,000 pixels are more than 20,000,000"),
        ("svg?title=a%0Ab", "title", "must hold no control characters"),
        (f"svg?title={'a' * 201}", "title", "at most 200 characters"),
        ("npz?title=a", "title", "applies to figures (png, svg, pdf); this response is npz"),
        ("json?dpi=100", "dpi", "applies to figures (png, svg, pdf); this response is json"),
        ("png?width=4", "width", "did you mean width_inches?"),
    ],
)
def test_what_no_picture_can_have_is_refused(server: Any, job_id: str, query: str, field: str, said: str) -> None:
    answer = httpx.get(f"{server.url}/v1/jobs/{job_id}/result.{query}", timeout=SECONDS)
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert error["loc"] == ["query", field]
    assert said in error["msg"]


def test_the_picture_of_a_trace_shows_the_diagonal_that_npz_holds(
    server: Any, client: SpectrumClient, job_id: str
) -> None:
    with np.load(io.BytesIO(client.result_file(job_id, "npz")), allow_pickle=False) as arrays:
        diagonal = arrays["diagonal"]
        assert arrays["frobenius"].shape == (2,)
    assert len(diagonal) == 13
    picture = client.result_file(job_id, "svg").decode()
    labels = re.findall(r"<text[^>]*>([^<]*)</text>", picture)
    assert f"at least 0: {(diagonal >= 0).sum()}" in labels
    assert any(label.startswith("13 entries of the diagonal") for label in labels)
    assert any(label.startswith("trace ") for label in labels)


def test_pictures_of_another_look_have_another_tag(server: Any, job_id: str) -> None:
    def answered(query: str, tag: str = "") -> httpx.Response:
        return httpx.get(
            f"{server.url}/v1/jobs/{job_id}/result.svg{query}", headers={"If-None-Match": tag}, timeout=SECONDS
        )

    plain, titled, sized = answered(""), answered("?title=%22,%20a"), answered("?dpi=100")
    assert len({plain.headers["etag"], titled.headers["etag"], sized.headers["etag"]}) == 3
    assert answered("?title=%22,%20a", titled.headers["etag"]).status_code == 304
    assert answered("", titled.headers["etag"]).status_code == 200
