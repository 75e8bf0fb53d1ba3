"""Every picture in docs/images is shown by a document, and is that of the request before it, or of the demo."""

import json
import re

from benchmarks.doc_images import DEMO_IMAGE, IMAGES, PAGE_VIEWS, PROGRAM, WRITTEN_URL, image_requests
from hessian_spectrum.api_schemas.jobs import JobRequest
from hessian_spectrum.api_schemas.random_matrix import RandomMatrixRequest
from tests.docs.blocks import DOCUMENTS

MESSAGES = {"jobs": JobRequest, "random-matrix": RandomMatrixRequest}


def test_every_picture_is_shown_and_can_be_made() -> None:
    files = {path.stem for path in IMAGES.iterdir()}
    shown = {name for page in DOCUMENTS for name in re.findall(r"\]\([\w./]*images/([\w-]+)\.png\)", page.read_text())}
    assert files == shown == {DEMO_IMAGE, *PAGE_VIEWS, *image_requests()}


def test_the_requests_of_pictures_are_valid() -> None:
    requests = image_requests()
    assert requests
    for name, (endpoint, body) in requests.items():
        if endpoint == PROGRAM:
            assert f'Path("{name}.png").write_bytes(' in body
            assert WRITTEN_URL in body
            continue
        MESSAGES[endpoint].model_validate(json.loads(body))


def test_a_picture_belongs_to_the_last_request_before_it() -> None:
    requests = image_requests()
    assert '"index-curve"' in requests["index-curve"][1]
    assert '"attention_sink"' in requests["attention-sinks"][1]
    assert '"blocks"' in requests["block-eigenvalues"][1]
    assert '"hessian-vs-ggn"' in requests["hessian-vs-ggn"][1]
