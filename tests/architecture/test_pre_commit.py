"""What is checked before a commit is what `make check` checks."""

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]


def test_the_hooks_are_the_steps_of_make_check() -> None:
    configuration = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    entries = [hook["entry"] for repository in configuration["repos"] for hook in repository["hooks"]]
    [steps] = re.findall(r"^check: ([a-z ]+?) *##", (ROOT / "Makefile").read_text(), flags=re.M)
    assert entries == [f"make -s {step}" for step in steps.split()]
