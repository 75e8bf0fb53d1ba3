"""The result version changes with every line of the code and with every library."""

import shutil
from pathlib import Path

import pytest

from hessian_spectrum.jobs import fingerprints
from hessian_spectrum.jobs.fingerprints import RESULT_PACKAGES, digest_of_sources, package_directories, result_version


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    copy = tmp_path_factory.mktemp("sources")
    ignored = shutil.ignore_patterns("__pycache__")
    return [shutil.copytree(path, copy / path.name, ignore=ignored) for path in package_directories(RESULT_PACKAGES)]


def test_the_same_sources_have_the_same_version_wherever_they_lie(sources: list[Path]) -> None:
    assert digest_of_sources(sources) == result_version()
    (sources[-1] / "__pycache__").mkdir()
    (sources[-1] / "__pycache__" / "app.pyc").write_bytes(b"0")
    assert digest_of_sources(sources) == result_version()


@pytest.mark.parametrize("name", ["curvature/algorithms/lanczos.py", "worker/builders.py", "jobs/plans.py"])
def test_another_line_is_another_version(sources: list[Path], name: str) -> None:
    path = sources[0].parent / name
    before, content = digest_of_sources(sources), path.read_text()
    path.write_text(content + "\n")
    assert digest_of_sources(sources) != before
    path.write_text(content)
    assert digest_of_sources(sources) == before
    path.rename(path.with_suffix(".txt"))
    assert digest_of_sources(sources) != before
    path.with_suffix(".txt").rename(path)


def test_another_library_is_another_version(sources: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    before = digest_of_sources(sources)
    monkeypatch.setattr(fingerprints, "version", lambda name: "2.0" if name == "torch" else "1.0")
    one = digest_of_sources(sources)
    monkeypatch.setattr(fingerprints, "version", lambda name: "2.1" if name == "torch" else "1.0")
    assert len({before, one, digest_of_sources(sources)}) == 3
