"""Every command and option of both command lines is explained by a sentence that stands alone."""

from typing import Any

import pytest
import typer

from hessian_spectrum.client.main import app as client
from hessian_spectrum.launcher.main import app as launcher

APPS = {"spectrum": client, "spectrum-server": launcher}


def stands_alone(text: str | None) -> bool:
    return bool(text) and text[0].isupper() and text.endswith(".") and len(text.split()) >= 4


@pytest.mark.parametrize("name", APPS)
def test_every_help_text_is_a_sentence(name: str) -> None:
    group: Any = typer.main.get_command(APPS[name])
    commands = {name: group} | {f"{name} {each}": command for each, command in group.commands.items()}
    assert len(commands) > 5
    texts = {each: command.help for each, command in commands.items()}
    for each, command in commands.items():
        texts |= {f"{each} {parameter.name}": getattr(parameter, "help", None) for parameter in command.params}
    assert len(texts) > 25
    assert {each: text for each, text in texts.items() if not stands_alone(text)} == {}
