"""Files outside of docs/ to which documents link: they are part of the site, and links to them are adapted.

On a Git host, links are relative to the file in the repository. On the site, docs/ is the root, and files that the
documents name from elsewhere have the path that they have in the repository.
"""

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File

from docs_site.notebooks import page_of

ROOT = Path(__file__).parents[1]
MEASUREMENTS = "benchmarks/results"
_DOCUMENTS = "docs"
_LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s#]+)(?P<anchor>#[^)\s]*)?\)")
_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def repository_path(src_uri: str) -> str:
    """Return the path in the repository of a file of the site."""
    in_documents = f"{_DOCUMENTS}/{src_uri}"
    return in_documents if (ROOT / in_documents).exists() else src_uri


def site_path(path: str) -> str:
    """Return the path on the site of a file of the repository, of a notebook that of its page."""
    return page_of(path.removeprefix(f"{_DOCUMENTS}/"))


def links(markdown: str) -> Iterator[re.Match[str]]:
    """Yield the links to other files, except those in blocks of code."""
    fences = [match.span() for match in _FENCE.finditer(markdown)]
    for match in _LINK.finditer(markdown):
        is_code = any(start <= match.start() < stop for start, stop in fences)
        if not is_code and ":" not in match["target"]:
            yield match


def linked_path(match: re.Match[str], page: str) -> str:
    """Return the path in the repository to which a link on a page leads; both paths begin at the repository's root."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), match["target"]))


def with_links_of_the_site(markdown: str, src_uri: str) -> str:
    """Return a page whose links lead to the same files as before on the site.

    Args:
        markdown: The page, with links that are relative to its place in the repository.
        src_uri: The path of the page on the site.

    Returns:
        The page, with links that are relative to its place on the site.
    """
    page, parts, end = repository_path(src_uri), [], 0
    for match in links(markdown):
        parts += [markdown[end : match.start()], _link_of_the_site(match, linked_path(match, page), src_uri)]
        end = match.end()
    return "".join([*parts, markdown[end:]])


def _link_of_the_site(match: re.Match[str], path: str, src_uri: str) -> str:
    if path == MEASUREMENTS:
        path = f"{path}/index.md"
    elif (ROOT / path).is_dir():  # of which a site has no page
        return match["text"] if path in match["text"] else f"{match['text']} (`{path}` in the repository)"
    target = posixpath.relpath(site_path(path), posixpath.dirname(src_uri) or ".")
    return f"{match['image']}[{match['text']}]({target}{match['anchor'] or ''})"


def files_outside_of_the_documents(config: MkDocsConfig) -> list[File]:
    """Return the changelog, the measurements, and every other file outside of docs/ to which a document links."""
    paths = {"CHANGELOG.md"} | {path.relative_to(ROOT).as_posix() for path in (ROOT / MEASUREMENTS).glob("*.md")}
    documents = [path.relative_to(ROOT).as_posix() for path in (ROOT / _DOCUMENTS).rglob("*.md")]
    for page in [*documents, *paths]:
        linked = {linked_path(match, page) for match in links((ROOT / page).read_text())}
        paths |= {path for path in linked if (ROOT / path).is_file() and not path.startswith(f"{_DOCUMENTS}/")}
    files = [File.generated(config, path, abs_src_path=str(ROOT / path)) for path in sorted(paths)]
    return [*files, File.generated(config, f"{MEASUREMENTS}/index.md", content=_index_of_measurements())]


def _index_of_measurements() -> str:
    rows = []
    for path in sorted((ROOT / MEASUREMENTS).glob("*.md")):
        title = next(line for line in path.read_text().splitlines() if line.startswith("# ")).removeprefix("# ")
        rows.append(f"- [{title}]({path.name})")
    return "# Measurements\n\nWhat `make bench` and its parts measured.\n\n" + "\n".join(rows) + "\n"
