"""Every file, module, class, command, make target, setting and path of the interface that a document names exists."""

import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from markdown_it import MarkdownIt
from pydantic import SecretStr

from hessian_spectrum.client.main import app as client_app
from hessian_spectrum.jobs.settings import OTHER_VARIABLES, ServiceSettings, WorkerSettings
from hessian_spectrum.launcher.main import app as launcher_app
from hessian_spectrum.service.app import create_app
from tests.docs.blocks import DOCUMENTS, ROOT

PAGES = (*DOCUMENTS, ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md")
SOURCE_DIRECTORIES = (
    "api_schemas",
    "benchmarks",
    "client",
    "core",
    "docs_site",
    "launcher",
    "results",
    "scripts",
    "service",
    "tests",
    "worker",
)
ENDINGS = "py|lua|toml|md|txt|json"
PROGRAMS: dict[str, Any] = {
    "spectrum": typer.main.get_command(client_app),
    "spectrum-server": typer.main.get_command(launcher_app),
}
# Files that the documents tell their readers to make, or that the server or another program makes.
FILES_OF_READERS = {"first.py", "network.py", "config.json", "job.json", "keys.json", "/openapi.json"}
# Names of S3, torch and Lightning.
FOREIGN_CLASSES = {"AbortIncompleteMultipartUpload", "PutObject"}
FOREIGN_CLASSES |= {"DataParallel", "DistributedDataParallel", "LightningModule"}

EXISTING = [ROOT / name for name in SOURCE_DIRECTORIES]
FILES = [
    path.relative_to(ROOT).as_posix()
    for directory in (*EXISTING, ROOT / "docs")
    for path in directory.rglob("*")
    if path.is_file() and "__pycache__" not in path.parts
] + [path.name for path in ROOT.iterdir() if path.is_file()]
FOLDERS = {parent.as_posix() for file in FILES for parent in Path(file).parents}
SOURCES = [path for directory in EXISTING for path in directory.rglob("*.py")]
CLASSES = {name for path in SOURCES for name in re.findall(r"^ *class (\w+)", path.read_text(), re.MULTILINE)}


def prose(path: Path) -> str:
    return re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)


def code_spans(path: Path) -> list[str]:
    return re.findall(r"`([^`\n]+)`", prose(path))


def commands(path: Path) -> Iterator[list[str]]:
    """The words of every command in a block of bash or in a code span."""
    lines = []
    for token in MarkdownIt().parse(path.read_text()):
        if token.type == "fence" and token.info.strip() == "bash":
            lines += re.sub(r"\\\n", " ", token.content).splitlines()
    for line in lines + code_spans(path):
        try:
            words = shlex.split(line, comments=True)
        except ValueError:  # a piece of a body in JSON
            continue
        if words:
            yield [words[0].rpartition("/")[2], *words[1:]]


def ends_like(name: str, paths: Iterator[str] | list[str] | set[str]) -> bool:
    """Whether one of the paths is the name, or ends with it from the beginning of a part on."""
    return any(path == name or path.endswith(f"/{name}") for path in paths)


by_page = pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())


@by_page
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"https?:", target):
            continue
        file, _, anchor = target.partition("#")
        linked = (page.parent / file).resolve() if file else page
        if not linked.exists() or (anchor and anchor not in anchors(linked)):
            broken.append(target)
    assert broken == []


def anchors(page: Path) -> set[str]:
    """Those that GitHub gives to headings, and those that are written out."""
    text = page.read_text()
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    slugs = {re.sub(r"[^\w\- ]", "", re.sub(r"[`*]", "", each)).strip().lower().replace(" ", "-") for each in headings}
    return slugs | set(re.findall(r'<a id="([\w-]+)">', text))


@by_page
def test_named_files_exist(page: Path) -> None:
    named = {span for span in code_spans(page) if re.fullmatch(rf"[\w./-]*\w\.({ENDINGS})", span)}
    assert {name for name in named - FILES_OF_READERS if not ends_like(name, FILES)} == set()


@by_page
def test_named_folders_exist(page: Path) -> None:
    packages = {Path(folder).name for folder in FOLDERS if (ROOT / folder / "__init__.py").exists()}
    named = {span.rstrip("/") for span in code_spans(page) if re.fullmatch(r"[a-z_]+(/[a-z_]+)+/?", span)}
    ours = {name for name in named if name.partition("/")[0] in packages | set(SOURCE_DIRECTORIES)}
    assert {name for name in ours if not ends_like(name, FOLDERS)} == set()


@by_page
def test_named_modules_exist(page: Path) -> None:
    text = re.sub(r"^```diff\n.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)  # may add modules
    named = set(re.findall(r"\b(?:hessian_spectrum|benchmarks|tests)(?:\.\w+)+", text))
    modules = [module_of(name) for name in named - {"hessian_spectrum.service.requests"}]  # a logger's name
    paths = [name.replace(".", "/") for name in modules]
    assert [path for path in paths if not ends_like(f"{path}.py", FILES) and not ends_like(path, FOLDERS)] == []


def module_of(name: str) -> str:
    """The name without that of a class, which the pages of the Python reference have at the end."""
    module, _, last = name.rpartition(".")
    return module if last in CLASSES else name


@by_page
def test_named_classes_exist(page: Path) -> None:
    named = {span for span in code_spans(page) if re.fullmatch(r"_?(?:[A-Z][a-z]+){2,}|[A-Z]{2,}[a-z]\w+", span)}
    assert named - FOREIGN_CLASSES - CLASSES == set()


@by_page
def test_named_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {words[1] for words in commands(page) if words[0] == "make" and len(words) > 1}
    assert named <= targets


@by_page
def test_named_settings_exist(page: Path) -> None:
    assert set(re.findall(r"\bSPECTRUM_[A-Z_]*[A-Z]\b", page.read_text())) <= known_settings()


def known_settings() -> set[str]:
    known = set(OTHER_VARIABLES)
    for name, field in (ServiceSettings.model_fields | WorkerSettings.model_fields).items():
        choices = getattr(field.validation_alias, "choices", [f"SPECTRUM_{name.upper()}"])
        known |= {str(choice) for choice in choices}
    return known


def test_every_setting_is_documented() -> None:
    pages = ("reference/settings.md", "deployment.md", "how-to/keys.md")
    documented = {
        name for page in pages for name in re.findall(r"`(SPECTRUM_\w+)`", (ROOT / "docs" / page).read_text())
    }
    assert known_settings() - documented == set()


@by_page
def test_named_commands_and_options_exist(page: Path) -> None:
    unknown = []
    for words in commands(page):
        group = PROGRAMS.get(words[0])
        if group is None or len(words) < 2 or words[1] == "...":
            continue
        command = group if words[1].startswith("-") else group.commands.get(words[1])
        if command is None:
            unknown.append(" ".join(words))
        elif not getattr(command, "ignore_unknown_options", False):
            known = {"--help", *itertools.chain.from_iterable(each.opts for each in command.params)}
            unknown += [
                f"{words[0]} {words[1]} {each}" for each in words[1:] if each.startswith("-") and each not in known
            ]
    assert unknown == []


@pytest.fixture(scope="module")
def interface_paths(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Those of the OpenAPI document and their beginnings, with * for each parameter."""
    settings = ServiceSettings(
        redis_url=SecretStr("unix:///nowhere"), results_dir=tmp_path_factory.mktemp("data") / "results"
    )
    paths = [re.sub(r"\{\w+\}", "*", path) for path in create_app(settings).openapi()["paths"]]
    return {begin for path in paths for begin in itertools.accumulate(path.split("/"), "{}/{}".format)}


@by_page
def test_named_paths_of_the_interface_exist(page: Path, interface_paths: set[str]) -> None:
    named = re.findall(r"(?<![\w}])/v1(?:/(?:\{\w+\}|[\w.-]*\w))+", page.read_text())
    assert {
        name for name in (re.sub(r"\{\w+\}|\bID\b", "*", each) for each in named) if name not in interface_paths
    } == set()
