"""`POST /v1/closed-form` with arrays as npz and as multipart/form-data, and its answers as npz and pictures."""

import asyncio
import io
import json
import math
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from hessian_spectrum.client.http import SpectrumClient
from hessian_spectrum.jobs.settings import ServiceSettings
from hessian_spectrum.service.app import create_app
from hessian_spectrum.service.routes.closed_form import MAX_VECTOR_NUMBERS_JSON
from hessian_spectrum.service.uploads import parser

NPZ = "application/x-npz"
GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "closed_form.json").read_text())
ONE_OF_EACH_KIND = list({case["model"]["kind"]: case for case in GOLDEN["cases"]}.values())
FIELDS = {"kind": "linear", "w": np.arange(1.0, 4.0), "v": np.ones(3), "x": np.arange(1.0, 5.0), "y": np.ones(4)}
REQUEST = {
    "model": {"kind": "linear", "w": [1.0, 2.0, 3.0], "v": [1.0] * 3},
    "data": {"x": [1.0, 2.0, 3.0, 4.0], "y": [1.0] * 4},
}


def npz(**fields: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **{name: np.asarray(value) for name, value in fields.items()})
    return buffer.getvalue()


def npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@pytest.fixture
def post(server: Any) -> Callable[..., httpx.Response]:
    def call(body: bytes = b"", sent_as: str = NPZ, accept: str = "application/json", **form: Any) -> httpx.Response:
        headers = {"Accept": accept} | ({} if form else {"Content-Type": sent_as})
        return httpx.post(f"{server.url}/v1/closed-form", content=body or None, headers=headers, timeout=60, **form)

    return call


def problem_field(response: httpx.Response) -> str:
    assert response.status_code == 422, response.text
    assert response.headers["content-type"] == "application/problem+json"
    return ".".join(map(str, response.json()["errors"][0]["loc"]))


@pytest.mark.parametrize("case", ONE_OF_EACH_KIND, ids=lambda case: case["model"]["kind"])
def test_every_way_to_send_a_request_gives_the_same_answer(post: Any, server: Any, case: dict[str, Any]) -> None:
    request = {"model": case["model"], "data": case["data"]}
    expected = httpx.post(f"{server.url}/v1/closed-form", json=request).json()
    fields = case["model"] | case["data"]
    dotted = {f"{part}.{name}": value for part in request for name, value in request[part].items()}
    text = {name: (None, value if name == "kind" else json.dumps(value)) for name, value in fields.items()}
    files = {name: (f"{name}.npy", npy(np.asarray(value))) for name, value in dotted.items()}
    for response in (
        post(npz(**fields)),
        post(npz(**dotted)),
        post(files=text),
        post(files=files),
        post(files={"request": (None, json.dumps(request), "application/json")}),
    ):
        assert response.status_code == 200, response.text
        found = response.json()
        values, wanted = ([e["value"] for e in answer["eigenvalues"]] for answer in (found, expected))
        np.testing.assert_allclose(values, wanted, rtol=0, atol=1e-12 * max(map(abs, wanted)))
        assert {**found, "eigenvalues": 0, "trace": 0}.keys() == expected.keys()
        assert (found["num_parameters"], found["notes"]) == (expected["num_parameters"], expected["notes"])


def test_big_endian_fortran_and_compressed_arrays_are_read(post: Any) -> None:
    random = np.random.default_rng(0)
    W1, W2, x = random.normal(size=(5, 3)), random.normal(size=(2, 5)), random.normal(size=(7, 3))
    plain = {"kind": "two-layer-linear", "W1": W1, "W2": W2, "x": x, "y": np.arange(14).reshape(7, 2)}
    buffer = io.BytesIO()
    odd = plain | {"W1": np.asfortranarray(W1), "W2": W2.astype(">f8"), "y": np.arange(14).reshape(7, 2).astype(">i2")}
    np.savez_compressed(buffer, **odd)
    found, expected = post(buffer.getvalue()).json(), post(npz(**plain)).json()
    for one, other in zip(found["eigenvalues"], expected["eigenvalues"], strict=True):
        assert one["value"] == pytest.approx(other["value"], abs=1e-12 * expected["sharpness"])


def test_a_form_mixes_json_text_and_files(post: Any) -> None:
    request = {"model": {"kind": "linear", "v": [1, 1, 1]}, "descent": {"num_steps": 2}}
    response = post(
        files={
            "request": (None, json.dumps(request), "application/json"),
            "w": ("weights", npy(FIELDS["w"]), "application/octet-stream"),
            "data.x": (None, "[1, 2, 3, 4]"),
            "y": ("y.npy", npy(FIELDS["y"])),
            "learning_rate": (None, "0.001"),
            "eigenvectors": (None, "outliers"),
        }
    )
    assert response.status_code == 200, response.text
    answer = response.json()
    assert len(answer["descent"]["loss"]) == 3
    assert len(answer["eigenvectors"]["vectors"]) == 2


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"W1": 1.0}, "body.model.W1"),
        ({"u": [1.0]}, "body.u"),
        ({"model.w": np.ones(3)}, "body.model.w"),
        ({"w": np.ones((3, 1))}, "body.model.w"),
        ({"w": np.ones(2)}, "body.model.v"),
        ({"v": [1.0, np.nan, 1.0]}, "body.model.v"),
        ({"x": [1.0, np.inf, 1.0, 1.0]}, "body.data.x"),
        ({"x": np.ones(3)}, "body.data.y"),
        ({"y": np.ones(4, complex)}, "body.data.y"),
        ({"y": np.array(["a", "b"])}, "body.data.y"),
        ({"kind": "cubic"}, "body.model.kind"),
        ({"kind": 3}, "body.model.kind"),
        ({"kind": "relu", "num_steps": 2, "learning_rate": 0.1}, "body.descent"),
        ({"num_steps": 0, "learning_rate": 0.1}, "body.descent.num_steps"),
        ({"num_steps": 10_001, "learning_rate": 0.1}, "body.descent.num_steps"),
        ({"num_steps": 1.5, "learning_rate": 0.1}, "body.descent.num_steps"),
        ({"num_steps": 2, "learning_rate": -1.0}, "body.descent.learning_rate"),
        ({"num_steps": 2, "learning_rate": np.inf}, "body.descent.learning_rate"),
        ({"num_steps": 2}, "body.descent.learning_rate"),
        ({"eigenvectors": "some"}, "body.eigenvectors"),
        ({"w": np.ones(10**6), "v": np.ones(10**6), "eigenvectors": "all"}, "body.eigenvectors"),
    ],
)
def test_a_problem_names_the_field(post: Any, change: dict[str, Any], field: str) -> None:
    assert problem_field(post(npz(**FIELDS | change))) == field


def test_objects_in_an_archive_are_never_unpickled(post: Any) -> None:
    class Hostile:
        def __reduce__(self) -> Any:
            return (Path("/tmp/unpickled-by-the-server").touch, ())

    buffer = io.BytesIO()
    np.savez(buffer, **FIELDS | {"w": np.array([Hostile()] * 3, dtype=object)})
    assert problem_field(post(buffer.getvalue())) == "body.model.w"
    assert not Path("/tmp/unpickled-by-the-server").exists()


BOUNDARY = "multipart/form-data; boundary=b"
HEAD = b'--b\r\nContent-Disposition: form-data; name="kind"\r\n\r\nlinear'


@pytest.mark.parametrize(
    ("body", "sent_as"),
    [
        (b"", NPZ),
        (b"PK\3\4", NPZ),
        (npz(**FIELDS)[:-10], NPZ),
        (b"", BOUNDARY),
        (HEAD, BOUNDARY),
        (HEAD + b"\r\n--b", BOUNDARY),
        (HEAD + b"\r\n--b--\r\n", "multipart/form-data"),
        (HEAD + b"\r\n--b--\r\n", "multipart/form-data; boundary=" + "b" * 1000),
        (b"--b\r\n\r\nlinear\r\n--b--\r\n", BOUNDARY),
        (b"--b\r\nContent-Disposition: " + b"x" * 100_000 + b"\r\n\r\n\r\n--b--\r\n", BOUNDARY),
        ((HEAD + b"\r\n") * 40 + b"--b--\r\n", BOUNDARY),
        (b"no form at all", BOUNDARY),
    ],
    ids=range(12),
)
def test_what_cannot_be_taken_apart_gets_a_problem(server: Any, body: bytes, sent_as: str) -> None:
    response = httpx.post(f"{server.url}/v1/closed-form", content=body, headers={"Content-Type": sent_as})
    assert response.status_code == 400, response.text
    assert response.json()["type"] == "/problems/malformed-upload"
    assert len(response.content) < 1000


@pytest.mark.parametrize(
    ("parts", "field"),
    [
        ([("request", "{")], "body.request"),
        ([("request", "[]")], "body.request"),
        ([("request", '{"model": [1]}'), ("w", "[1]")], "body.model.w"),
        ([("request", json.dumps(REQUEST)), ("w", "[1]")], "body.model.w"),
        ([("request", "[" * 10_000 + "]" * 10_000)], "body.request"),
        ([("request", " " * (parser.MAX_TEXT_BYTES + 1))], "body.request"),
        ([("w", " " * (parser.MAX_TEXT_BYTES + 1))], "body.model.w"),
        ([("kind", "linear"), ("kind", "linear")], "body.model.kind"),
        ([("kind", "linear"), ("w", "NaN"), ("v", "1"), ("x", "1"), ("y", "1")], "body.model.w"),
        ([("kind", "linear"), ("w", "[NaN]"), ("v", "[1]"), ("x", "[1]"), ("y", "[1]")], "body.model.w.0"),
        ([("kind", "linear"), ("w", "\x00\xff"), ("v", "[1]"), ("x", "[1]"), ("y", "[1]")], "body.model.w"),
    ],
    ids=range(11),
)
def test_parts_of_a_form_are_named(post: Any, parts: list[tuple[str, str]], field: str) -> None:
    assert problem_field(post(files=[(name, (None, text)) for name, text in parts])) == field


def test_other_bodies_and_answers_are_named_with_their_alternatives(post: Any) -> None:
    refused = post(b"a,b", sent_as="text/csv")
    assert refused.status_code == 415
    assert all(kind in refused.json()["detail"] for kind in ("application/json", NPZ, "multipart/form-data"))
    refused = post(npz(**FIELDS), accept="text/html")
    assert refused.status_code == 406
    assert NPZ in refused.json()["detail"]


def test_eigenvectors_come_as_json_and_as_npz(post: Any) -> None:
    matrix = np.array([[2.0, 1.0, 0.0], [1.0, 3.0, 1.0], [0.0, 1.0, -4.0]])
    body = npz(kind="quadratic", matrix=matrix, eigenvectors="all")
    answer = post(body).json()["eigenvectors"]
    assert answer["which"] == "all"
    assert [p["shape"] for p in answer["parameters"]] == [[3]]
    arrays = np.load(io.BytesIO(post(body, accept=NPZ).content), allow_pickle=False)
    for values, vectors in (
        (np.array(answer["eigenvalues"]), np.array(answer["vectors"])),
        (arrays["vector_eigenvalues"], arrays["vectors"]),
    ):
        np.testing.assert_allclose(vectors @ matrix, values[:, None] * vectors, rtol=0, atol=1e-13 * 5)
        np.testing.assert_allclose(vectors @ vectors.T, np.eye(3), rtol=0, atol=1e-13)


def test_an_npz_answer_holds_everything(post: Any) -> None:
    request = FIELDS | {"kind": "relu", "v": np.array([1.0, -1.0, 0.0]), "eigenvectors": "outliers"}
    expected = post(npz(**request)).json()
    response = post(npz(**request), accept=NPZ)
    assert response.headers["content-type"] == NPZ
    arrays = np.load(io.BytesIO(response.content), allow_pickle=False)
    assert arrays["eigenvalues"].tolist() == [e["value"] for e in expected["eigenvalues"]]
    assert arrays["multiplicities"].tolist() == [e["multiplicity"] for e in expected["eigenvalues"]]
    assert arrays["roles"].tolist() == [e["role"] for e in expected["eigenvalues"]]
    assert arrays["groups"].tolist() == [e["group"] or "" for e in expected["eigenvalues"]]
    assert arrays["pairs"].tolist() == [-1 if e["pair"] is None else e["pair"] for e in expected["eigenvalues"]]
    assert arrays["trace"] == expected["trace"]
    assert arrays["vectors"].tolist() == expected["eigenvectors"]["vectors"]
    document = json.loads(str(arrays["document"]))
    empty = {"eigenvalues": [], "vectors": []}
    assert document == expected | {"eigenvectors": expected["eigenvectors"] | empty}


def test_npz_carries_more_eigenvectors_than_json(post: Any) -> None:
    width = 600
    assert (2 * width) ** 2 > MAX_VECTOR_NUMBERS_JSON
    random = np.random.default_rng(0)
    body = npz(**FIELDS | {"w": random.normal(size=width), "v": random.normal(size=width), "eigenvectors": "all"})
    refused = post(body)
    assert problem_field(refused) == "body.eigenvectors"
    assert str(MAX_VECTOR_NUMBERS_JSON) in refused.json()["detail"]
    assert NPZ in refused.json()["detail"]
    arrays = np.load(io.BytesIO(post(body, accept=NPZ).content))
    assert arrays["vectors"].shape == (2 * width, 2 * width)
    assert post(body, accept="image/png").status_code == 200


def test_pictures(post: Any) -> None:
    assert post(npz(**FIELDS), accept="image/png").content.startswith(b"\x89PNG\r\n")
    picture = post(npz(**FIELDS), accept="image/svg+xml")
    assert picture.headers["content-type"].startswith("image/svg+xml")
    assert b"<svg" in picture.content
    zeros = FIELDS | {"w": np.zeros(3), "v": np.zeros(3), "y": np.zeros(4)}
    assert post(npz(**zeros), accept="image/png").status_code == 200


def longest_delay_during(upload: Callable[[], object], server: Any) -> float:
    """Seconds that the slowest of the requests took that were sent one after the other until the upload had ended."""
    thread, delays = threading.Thread(target=upload), []
    with httpx.Client(base_url=server.url, timeout=30) as http:
        http.get("/v1/health/live")
        thread.start()
        while thread.is_alive():
            started = time.perf_counter()
            assert http.get("/v1/health/live").is_success
            delays.append(time.perf_counter() - started)
    assert len(delays) >= 3
    return max(delays)


def test_other_requests_are_answered_while_a_large_upload_is_read(server: Any, post: Any) -> None:
    """Three attempts, as a busy machine delays some request now and then; what blocks the server does so each time."""
    size = 6_250_000  # 100 MB in two arrays
    body = npz(**FIELDS | {"w": np.ones(size), "v": np.ones(size)})
    answers: list[httpx.Response] = []
    delays: list[float] = []
    while len(delays) < 3 and min(delays, default=math.inf) >= 0.5:
        delays.append(longest_delay_during(lambda: answers.append(post(body)), server))
        assert answers[-1].status_code == 200, answers[-1].text
    assert min(delays) < 0.5, delays


def test_arrays_from_python(client: SpectrumClient) -> None:
    expected = client.closed_form(REQUEST)
    model, data = {"kind": "linear", "w": FIELDS["w"], "v": [1.0] * 3}, {"x": FIELDS["x"], "y": FIELDS["y"]}
    assert client.closed_form({"model": model, "data": data, "descent": None}) == expected
    assert client.closed_form(npz(**FIELDS)) == expected
    arrays = np.load(io.BytesIO(client.closed_form_file(REQUEST, "npz")))
    assert arrays["trace"] == expected.trace


# Limits, in this process: a stack of its own for each setting would take longer than all tests above.


def small_app(directory: Path, **settings: Any) -> httpx.AsyncClient:
    app = create_app(ServiceSettings(redis_url="unix:///nowhere", results_dir=directory, **settings))
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://localhost", headers={"Content-Type": NPZ}
    )


async def in_pieces(body: bytes, pause: Callable[[], Any]) -> AsyncIterator[bytes]:
    yield body[:100]
    await pause()
    yield body[100:]


def test_too_large_uploads_are_refused(tmp_path: Path) -> None:
    async def use() -> None:
        async with small_app(tmp_path, max_upload_bytes=10_000, upload_memory_bytes=50_000) as http:
            body = npz(**FIELDS)
            assert (await http.post("/v1/closed-form", content=body)).status_code == 200
            large = npz(**FIELDS | {"w": np.ones(2000), "v": np.ones(2000)})
            for content in (large, in_pieces(large, lambda: asyncio.sleep(0))):
                response = await http.post("/v1/closed-form", content=content)
                assert response.status_code == 413
                assert response.json()["type"] == "/problems/body-too-large"
            buffer = io.BytesIO()
            np.savez_compressed(buffer, **FIELDS | {"w": np.ones(10_000), "v": np.ones(10_000)})
            assert len(buffer.getvalue()) < 10_000
            assert (await http.post("/v1/closed-form", content=buffer.getvalue())).status_code == 413
            bytes_of_eight = npz(**FIELDS | {"w": np.ones(4000, np.int8), "v": np.ones(4000, np.int8)})
            assert (await http.post("/v1/closed-form", content=bytes_of_eight)).status_code == 413

    asyncio.run(use())


def test_uploads_beyond_the_memory_wait_their_turn(tmp_path: Path) -> None:
    body = npz(**FIELDS)

    async def use() -> None:
        async with small_app(tmp_path, max_upload_bytes=len(body), upload_memory_bytes=len(body) + 1000) as http:
            held, released = asyncio.Event(), asyncio.Event()

            async def hold() -> None:
                held.set()
                await released.wait()

            first = asyncio.create_task(http.post("/v1/closed-form", content=in_pieces(body, hold)))
            await held.wait()
            second = await http.post("/v1/closed-form", content=body)
            assert second.status_code == 503
            assert second.headers["retry-after"] == "5"
            json_answer = await http.post("/v1/closed-form", json=REQUEST, headers={"Content-Type": "application/json"})
            assert json_answer.status_code == 200
            released.set()
            assert (await first).status_code == 200
            assert (await http.post("/v1/closed-form", content=body)).status_code == 200

    asyncio.run(use())


def test_an_upload_that_takes_too_long_gives_its_memory_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = npz(**FIELDS)
    monkeypatch.setattr(parser, "UPLOAD_SECONDS", 0.2)

    async def use() -> None:
        async with small_app(tmp_path, max_upload_bytes=len(body), upload_memory_bytes=len(body) + 1000) as http:
            slow = in_pieces(body, lambda: asyncio.sleep(30))
            response = await http.post("/v1/closed-form", content=slow)
            assert response.status_code == 408
            assert (await http.post("/v1/closed-form", content=body)).status_code == 200

    asyncio.run(use())
