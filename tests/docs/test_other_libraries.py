"""The table of other libraries in the documentation is the committed result, and this server is right in each row."""

import json

from benchmarks.peers import LIBRARIES, RESULTS, RIGHT, table
from tests.docs.blocks import ROOT

REPORT = json.loads((RESULTS / "peers.json").read_text())


def rows(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("|")]


def test_the_table_is_the_committed_result() -> None:
    assert table(REPORT) == (RESULTS / "peers.md").read_text()
    document = (ROOT / "docs" / "reference" / "other-libraries.md").read_text()
    assert rows(document) == rows(table(REPORT))
    for name, version in REPORT["versions"].items():
        assert f"{name} {version}" in document


def test_every_library_was_measured_and_this_server_is_right_in_each_row() -> None:
    for row in REPORT["rows"]:
        assert row["reference_against_differences"] < 1e-6
        for outcome in row["outcomes"]:
            assert outcome["cells"].keys() == LIBRARIES.keys()
            ours = outcome["cells"]["this server"]
            assert "not_offered" in ours if outcome["reduction"] == "sum" else ours["error"] < RIGHT
