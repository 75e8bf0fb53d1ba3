"""The documentation as a site: complete, the same as on a Git host, and without requests to other hosts."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from markdown_it import MarkdownIt

from benchmarks.doc_images import image_requests
from docs_site.generated import figure_request, openapi_document
from docs_site.repository_files import links
from hessian_spectrum.api_schemas.experiments.figure import FigureRequest
from hessian_spectrum.client.client_base import ClientBase, Endpoint
from hessian_spectrum.client.main import app as client_app
from hessian_spectrum.launcher.main import app as launcher_app
from tests.docs.blocks import ROOT

DOCS = ROOT / "docs"
PAGES = [path.relative_to(DOCS).as_posix() for path in sorted(DOCS.rglob("*.md"))]
MADE_AT_BUILD_TIME = re.compile(r"^(?:<!-- generated: |::: |techdocs-owl:)", re.MULTILINE)
WRITTEN = [page for page in PAGES if not MADE_AT_BUILD_TIME.search((DOCS / page).read_text())]
LOADING_ATTRIBUTES = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href", "image": "href"}
UNLOADED_LINKS = {"canonical", "next", "prev"}
COMPARED = {"h1", "h2", "h3", "h4", "li", "tr", "td", "th", "pre", "code", "img", "em", "strong"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(directory)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    assert built.stdout + built.stderr == ""
    return directory


@dataclass
class Loaded(HTMLParser):
    """What a browser loads to show a page."""

    addresses: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        if tag == "link" and values.get("rel") in UNLOADED_LINKS:
            return
        address = values.get(LOADING_ATTRIBUTES.get(tag, ""))
        self.addresses += [address] if address else []
        self.addresses += imported(values.get("style") or "")


def imported(css: str) -> list[str]:
    """Addresses of fonts, pictures and further style sheets."""
    return re.findall(r"""(?:url\(\s*|@import\s+)["']?([^"')\s;]+)""", css)


def loaded(text: str) -> list[str]:
    parser = Loaded()
    parser.feed(text)
    styles = re.findall(r"<style.*?>(.*?)</style>", text, re.DOTALL)
    return parser.addresses + [each for style in styles for each in imported(style)]


def of_other_hosts(addresses: list[str]) -> list[str]:
    return [each for each in addresses if re.match(r"(?:\w+:)?//", each)]


def test_pages_load_nothing_from_other_hosts(site: Path) -> None:
    found = {path: loaded(path.read_text()) for path in site.rglob("*.html")}
    found |= {path: imported(path.read_text()) for path in site.rglob("*.css")}
    assert len(found) > len(PAGES)
    assert {path.name: others for path, addresses in found.items() if (others := of_other_hosts(addresses))} == {}
    # for which the theme's script would load a program from elsewhere
    assert not [path for path in found if 'class="mermaid"' in path.read_text()]


@pytest.mark.parametrize(
    "page",
    [
        '<script src="https://cdn.example.org/a.js"></script>',
        '<link rel="stylesheet" href="//cdn.example.org/a.css">',
        '<link rel="preconnect" href="https://fonts.example.org" crossorigin>',
        "<style>@import 'https://cdn.example.org/a.css';</style>",
        '<p style="background: url(http://cdn.example.org/a.png)">',
        '<img alt="" src="https://cdn.example.org/a.png">',
    ],
)
def test_a_page_that_loads_from_another_host_is_found(page: str) -> None:
    assert of_other_hosts(loaded(page))


def test_what_pages_load_is_there(site: Path) -> None:
    missing = []
    for path in site.rglob("*.html"):
        for address in loaded(path.read_text()):
            file = address.partition("?")[0].partition("#")[0]
            if path.name != "404.html" and not address.startswith("data:") and not (path.parent / file).exists():
                missing.append(f"{path.relative_to(site)}: {address}")
    assert missing == []


ADDED_BY_THE_THEME = {"headerlink", "md-source-file"}
EMPTY_ELEMENTS = {"br", "hr", "img", "input"}


class Shown(HTMLParser):
    """Text and structure of what Markdown became, without what the theme adds."""

    def __init__(self, *, is_page: bool) -> None:
        super().__init__()
        self.words: list[str] = []
        self.elements: list[str] = []
        self._is_inside, self._skipped, self._is_page = not is_page, 0, is_page

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag == "article":
            self._is_inside = True
        elif self._skipped:
            self._skipped += tag not in EMPTY_ELEMENTS
        elif self._is_inside and (tag in {"nav", "button"} or dict(attributes).get("class") in ADDED_BY_THE_THEME):
            self._skipped = 1
        elif self._is_inside and tag in COMPARED:
            self.elements.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self._skipped:
            self._skipped -= tag not in EMPTY_ELEMENTS
        elif tag == "article" and self._is_page:
            self._is_inside = False

    def handle_data(self, data: str) -> None:
        if self._is_inside and not self._skipped:
            self.words += data.split()


def shown(html: str, *, is_page: bool) -> tuple[str, list[str]]:
    parser = Shown(is_page=is_page)
    parser.feed(html)
    return "".join(parser.words), parser.elements


def built(site: Path, page: str) -> str:
    """The HTML of a page."""
    return (site / page.replace("README.md", "index.md")).with_suffix(".html").read_text()


@pytest.mark.parametrize("page", [*WRITTEN, "../CHANGELOG.md"])
def test_a_page_is_the_same_as_on_a_git_host(page: str, site: Path) -> None:
    """Their dialects differ: in lists without an empty line above, in pipes in tables, in what looks like a tag."""
    text, elements = shown(MarkdownIt().enable("table").render((DOCS / page).read_text()), is_page=False)
    text_of_site, elements_of_site = shown(built(site, page.removeprefix("../")), is_page=True)
    assert text_of_site == text
    assert elements_of_site == elements


def test_the_overview_lists_every_page_and_the_site_has_each_in_its_menu() -> None:
    linked = {match["target"] for match in links((DOCS / "README.md").read_text())}
    assert set(PAGES) - linked == {"README.md"}
    menu = yaml.safe_load(re.sub(r"!!python\S+", "", (ROOT / "mkdocs.yml").read_text()))["nav"]
    assert set(PAGES) - set(files_of(menu)) == set()


def files_of(menu: Any) -> Iterator[str]:
    if isinstance(menu, str):
        yield menu
    else:
        for each in menu.values() if isinstance(menu, dict) else menu:
            yield from files_of(each)


def test_the_http_reference_has_every_route_and_schema(site: Path) -> None:
    page, document = built(site, "reference/http.md"), openapi_document()
    for path, operations in document["paths"].items():
        place = re.sub(r"[^a-z0-9]+", "-", path.lower()).strip("-")
        for method in operations:
            assert re.search(rf'<h3 id="endpoints-[\w-]*-{method}-{place}"', page), (method, path)
            assert operations[method]["summary"] in page
    text, _ = shown(page, is_page=True)
    for name, schema in document["components"]["schemas"].items():
        assert re.search(rf'<h3 id="schemas-{name.lower()}"', page), name
        for field_name in schema.get("properties", {}):
            assert field_name in text, (name, field_name)
    assert json.loads((site / "openapi.json").read_text()) == document


def test_the_reference_of_commands_has_every_command_and_option(site: Path) -> None:
    text, _ = shown(built(site, "reference/command-line.md"), is_page=True)
    for program, app in {"spectrum": client_app, "spectrum-server": launcher_app}.items():
        group: Any = typer.main.get_command(app)
        for name, command in group.commands.items():
            assert f"{program}{name}" in text
            for option in (option for each in command.params for option in each.opts if option.startswith("--")):
                assert option in text, (name, option)


def test_the_reference_of_the_client_has_every_method_with_its_arguments(site: Path) -> None:
    page = built(site, "reference/client.md")
    methods = [name for name, value in vars(ClientBase).items() if isinstance(value, Endpoint)]
    assert {"estimate", "result", "closed_forms"} <= set(methods)
    for client in ("http.SpectrumClient", "async_http.AsyncSpectrumClient"):
        for name in methods:
            _, _, part = page.partition(f'id="hessian_spectrum.client.{client}.{name}"')
            text, _ = shown(part.partition('<div class="doc doc-object')[0], is_page=False)
            method: Any = getattr(ClientBase, name)
            arguments = [each for each in method.__signature__.parameters if each != "self"]
            assert re.match(rf".*?{name}\(.*?{'.*?'.join(arguments)}.*?\)->", text), (client, name)
            assert "".join(method.__doc__.partition("\n")[0].replace("`", "").split()) in text


def test_the_packages_that_compute_are_described(site: Path) -> None:
    for page, name in {
        "operators": "hessian_spectrum.curvature.operators.matrices.GgnOperator",
        "algorithms": "hessian_spectrum.curvature.algorithms.trace.TraceEstimator",
        "models": "hessian_spectrum.curvature.models.gpt2.Gpt2",
        "theory": "hessian_spectrum.theory.closed_form.linear.linear_spectrum",
    }.items():
        assert f'id="{name}"' in built(site, f"reference/{page}.md")


def test_the_gallery_shows_every_picture_with_its_request(site: Path) -> None:
    page = built(site, "gallery.md")
    text, _ = shown(page, is_page=True)
    pictures = [path for folder in ("images", "figures") for path in (DOCS / folder).glob("*.png")]
    made_by_the_demo = {"digits-density"}
    pictures = [path for path in pictures if path.stem not in made_by_the_demo]
    assert {path.relative_to(DOCS).as_posix() for path in pictures} == set(re.findall(r'<img [^>]*src="([^"]+)"', page))
    for _, body in image_requests().values():
        assert "".join(body.split()) in text


@pytest.mark.parametrize("file", sorted((DOCS / "figures").glob("*.json")), ids=lambda path: path.stem)
def test_the_request_of_a_figure_has_the_parameters_with_which_it_was_made(file: Path) -> None:
    made = json.loads(file.read_text())
    request = FigureRequest.model_validate(figure_request(made))
    assert request.chosen.model_dump(mode="json") == made["parameters"]


def test_inner_products_are_no_tags(site: Path) -> None:
    """<w, v> in a description or a docstring would not be seen if it were one."""
    found = {path.name: re.findall(r"<\w+,[^>]*>", path.read_text()) for path in site.rglob("*.html")}
    assert {name: tags for name, tags in found.items() if tags} == {}
    assert "<w,v>" in shown(built(site, "reference/theory.md"), is_page=True)[0]
