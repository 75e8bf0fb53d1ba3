"""The numbers of several results side by side."""

import json
from typing import Any

from hessian_spectrum.client.testing import FakeServer
from tests.client.conftest import Command, called
from tests.fixtures.jobs import EXACT_JOB

JOB: dict[str, Any] = EXACT_JOB | {"tags": {"test": "command"}}


def test_results_are_compared_side_by_side(spectrum: Command) -> None:
    methods = ({"kind": "exact"}, {"kind": "trace", "num_probes": 4})
    ids = [
        json.loads(spectrum("submit", "-", text=json.dumps(JOB | {"method": each})).stdout)["id"] for each in methods
    ]
    for job_id in ids:
        assert spectrum("watch", job_id).exit_code == 0
    numbers = json.loads(spectrum("compare", *ids, "--json").stdout)
    assert list(numbers) == ids
    exact, estimated = (numbers[job_id]["trace"] for job_id in ids)
    assert estimated["lower"] <= exact["value"] <= estimated["upper"]
    table = spectrum("compare", *ids).stdout.splitlines()
    assert table[0].split() == ["quantity", *ids]
    rows = ["kind", "method", "matrix", "summary", "tags", "parameters", "loss", "largest", "smallest", "trace"]
    assert [line.split()[0] for line in table[1:]] == rows
    backwards = spectrum("compare", *reversed(ids)).stdout.splitlines()
    assert [line.split()[0] for line in backwards[1:]] == rows
    assert table[2].split() == ["method", "exact", "trace"]
    assert "exact, hessian of mlp" in table[4]
    assert "test:command" in table[5]


def test_a_job_is_not_compared_with_itself(fake: FakeServer) -> None:
    job_id = json.loads(called("submit", "-", text=json.dumps(JOB)).stdout)["id"]
    assert called("compare", job_id).exit_code == 0
    refused = called("compare", job_id, job_id[:20])
    assert refused.exit_code == 2
    assert "is named more than once" in " ".join(refused.output.replace("│", " ").split())


def test_results_without_single_numbers_are_not_compared(spectrum: Command) -> None:
    request = json.dumps(JOB | {"method": {"kind": "exact"}})
    table = spectrum("sweep", "-", "--set", "seed=1,2", "--format", "csv", text=request)
    assert table.exit_code == 0, table.output
    job_id = json.loads(spectrum("list", "--json").stdout)[0]["id"]
    refused = spectrum("compare", job_id)
    assert refused.exit_code == 2
    assert "no single numbers" in " ".join(refused.output.replace("│", " ").split())
