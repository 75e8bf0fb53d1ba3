"""The source trace names the files of this project whose functions are called, on every thread, and no others."""

import json
import sys
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from benchmarks.source_trace import CLOSED_FORM, SourceTrace
from hessian_spectrum.api_schemas.closed_form import ClosedFormRequest
from hessian_spectrum.theory.closed_form.linear import linear_spectrum


@pytest.fixture
def trace() -> Iterator[SourceTrace]:
    previous = sys.getprofile(), threading.getprofile()
    trace = SourceTrace()
    trace.install()
    yield trace
    sys.setprofile(previous[0])
    threading.setprofile(previous[1])


def test_only_called_files_of_ours_count(trace: SourceTrace) -> None:
    linear_spectrum(w=[0.5], v=[1.0], x=[1.0], y=[0.8])
    with trace.recording():
        json.dumps(np.ones(3).tolist())
    assert trace.files == set()
    with trace.recording():
        linear_spectrum(w=[0.5], v=[1.0], x=[1.0], y=[0.8])
    assert "theory/closed_form/linear.py" in trace.files
    assert all(file.startswith("theory/") for file in trace.files)


def test_other_threads_count(trace: SourceTrace) -> None:
    with trace.recording():
        thread = threading.Thread(target=ClosedFormRequest.model_validate, args=(CLOSED_FORM,))
        thread.start()
        thread.join()
    assert "api_schemas/closed_form.py" in trace.files
