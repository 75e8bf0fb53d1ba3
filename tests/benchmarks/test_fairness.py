"""The program that measures what keys do to each other says whether the goal is reached, and asks for what it says."""

from pathlib import Path

from benchmarks.expensive_requests import write_checkpoint
from benchmarks.fairness import table
from hessian_spectrum.checkpoints.directory import ModelsDirectory


def test_the_table_says_what_is_reached_and_what_is_missed() -> None:
    def load(seconds: float) -> dict[str, object]:
        wait = {"longest": seconds, "median": 0.01, "num": 3}
        return {"waits": {"job": wait, "ready": wait}, "statuses": {"200": 2, "given up": 1}, "load_seconds": 60.0}

    host = {"device": "one", "date": "today", "commit": "abc", "versions": {"Python": "3"}}
    lines = table({"host": host, "loads": {"pictures": load(0.5), "searches": load(1.5)}}).splitlines()
    assert "| pictures | 2 x 200, 1 x given up in 60.0 s | 500, 10 | 500, 10 | 1 s: reached |" in lines
    assert "| searches | 2 x 200, 1 x given up in 60.0 s | 1500, 10 | 1500, 10 | 1 s: missed |" in lines


def test_a_checkpoint_of_many_tensors_is_one(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "many", 500)
    found = ModelsDirectory(tmp_path).describe("many")
    assert (found.problem, found.kind, found.num_parameters) == (None, "causal-lm", 2048 + 499)
