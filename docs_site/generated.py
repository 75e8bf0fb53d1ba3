"""The parts of pages that are generated from the programs: commands, routes, pictures and their requests."""

import json
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import typer
from pydantic import SecretStr
from typer.cli import get_docs_for_click

from benchmarks.doc_images import PAGE_VIEWS, PROGRAM, image_requests
from hessian_spectrum.api_schemas.figures import FIGURES
from hessian_spectrum.client.main import app as client_app
from hessian_spectrum.jobs.settings import ServiceSettings
from hessian_spectrum.launcher.main import app as launcher_app
from hessian_spectrum.service.app import create_app

ROOT = Path(__file__).parents[1]
_PLACEHOLDER = re.compile(r"^<!-- generated: (?P<name>[\w-]+) -->$", re.MULTILINE)
_CUT_SUMMARY = re.compile(r"^(?P<name>\* `[\w-]+`: )(?P<beginning>.*)\.\.\.$", re.MULTILINE)
_IMAGE = re.compile(r"^!\[(.*?)\]\([\w./]*images/([\w-]+)\.png\)$", re.MULTILINE)


def with_generated_parts(markdown: str) -> str:
    """Return a page whose placeholders are replaced by the generated parts that they name."""
    return _PLACEHOLDER.sub(lambda placeholder: _PARTS[placeholder["name"]](), markdown)


def openapi_document() -> dict[str, Any]:
    """Return the OpenAPI document of the server; none has to run."""
    with tempfile.TemporaryDirectory() as directory:
        settings = ServiceSettings(redis_url=SecretStr("unix:///nowhere"), results_dir=Path(directory) / "results")
        return create_app(settings).openapi()


def _commands(app: typer.Typer, name: str) -> str:
    command = typer.main.get_command(app)
    text = get_docs_for_click(obj=command, ctx=typer.Context(command), name=name)
    helps = [" ".join((each.help or "").split()) for each in _every_command(command)]
    text = _CUT_SUMMARY.sub(lambda cut: cut["name"] + _first_sentence(cut["beginning"], helps), text)
    return re.sub(r"^(?=#+ )", "#", text, flags=re.MULTILINE)


def _every_command(group: Any) -> Iterator[Any]:
    for command in getattr(group, "commands", {}).values():
        yield command
        yield from _every_command(command)


def _first_sentence(beginning: str, texts: list[str]) -> str:
    (text,) = {re.split(r"(?<=\.)\s", each)[0] for each in texts if each.startswith(beginning)}
    return text


def _code(language: str, text: str) -> str:
    return f"```{language}\n{text.rstrip()}\n```"


def _gallery_of_documents() -> str:
    """Show each picture of docs/images with its origin and the page that explains it."""
    requests, parts = image_requests(), []
    for path in sorted((ROOT / "docs").rglob("*.md")):
        page, text = path.relative_to(ROOT / "docs").as_posix(), path.read_text()
        title = text.partition("\n")[0].removeprefix("# ")
        for caption, name in _IMAGE.findall(text):
            parts += [f"### {caption}", f"![{caption}](images/{name}.png)"]
            parts += [f"Explained in [{title}]({page}). {_origin(name, requests)}"]
            parts += [_request(*requests[name])] if name in requests else []
    return "\n\n".join(parts)


def _origin(name: str, requests: dict[str, tuple[str, str]]) -> str:
    if name in PAGE_VIEWS:
        return f"The page of a running server, at `/{PAGE_VIEWS[name]}`."
    endpoint, _ = requests[name]
    return "Written by the program below." if endpoint == PROGRAM else f"Made by `POST /v1/{endpoint}` with this body:"


def _request(endpoint: str, body: str) -> str:
    return _code("python" if endpoint == PROGRAM else "json", body)


def _gallery_of_figures() -> str:
    """Show each picture of docs/figures, with the request that made it."""
    parts = []
    for path in sorted((ROOT / "docs" / "figures").glob("*.json"), key=_natural_order):
        request, figure = figure_request(json.loads(path.read_text())), FIGURES[path.stem]
        parts += [f"### {path.stem}: {figure.title}", f"![{figure.title}](figures/{path.stem}.png)"]
        parts += [f"{figure.source}. Made by `POST /v1/jobs` with this body:", _code("json", json.dumps(request))]
    return "\n\n".join(parts)


def figure_request(made: dict[str, Any]) -> dict[str, Any]:
    """Return the request of a figure.

    Args:
        made: Content of the figure's file in docs/figures.

    Returns:
        The body of the request, with the parameters that differ from the defaults as overrides.
    """
    figure = FIGURES[made["figure"]]
    usual = figure.parameters.model_validate(figure.defaults(made["scale"])).model_dump(mode="json")
    overrides = {name: value for name, value in made["parameters"].items() if value != usual[name]}
    request = {"kind": "figure", "figure": made["figure"], "scale": made["scale"]}
    return request | ({"overrides": overrides} if overrides else {})


def _natural_order(path: Path) -> tuple[str, int]:
    source, _, number = path.stem.partition("-")
    return source, int(number) if number.isdigit() else 0


_PARTS: dict[str, Callable[[], str]] = {
    "spectrum": lambda: _commands(client_app, "spectrum"),
    "spectrum-server": lambda: _commands(launcher_app, "spectrum-server"),
    "gallery-of-documents": _gallery_of_documents,
    "gallery-of-figures": _gallery_of_figures,
}
