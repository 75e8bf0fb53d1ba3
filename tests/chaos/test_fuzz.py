"""A short run of schemathesis with all checks, the same one every time; `make fuzz` does many."""

from pathlib import Path
from typing import Any

from tests.chaos.fuzz import fuzz


def test_every_operation_keeps_its_contract(server: Any, tmp_path: Path) -> None:
    found = fuzz(server.url, 2, seed=0, directory=tmp_path, phases="examples,fuzzing")
    assert not found.failures, "\n".join(found.texts)
    assert found.num_operations >= 19
    assert found.num_cases > 60
