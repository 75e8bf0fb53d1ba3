"""Notebooks as pages of the site, with the output that they have in the repository."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File
from nbconvert import MarkdownExporter

SUFFIX = ".ipynb"


def notebook_pages(config: MkDocsConfig) -> Iterator[File]:
    """Yield a page for each notebook in docs/, and the pictures in it.

    Args:
        config: Configuration of mkdocs.
    """
    documents, exporter = Path(config.docs_dir), MarkdownExporter()  # type: ignore[no-untyped-call]
    for path in sorted(documents.rglob(f"*{SUFFIX}")):
        source = path.relative_to(documents).as_posix()
        resources = {"output_files_dir": f"{path.stem}_files"}
        page, made = exporter.from_filename(str(path), resources=resources)
        yield File.generated(config, page_of(source), content=page)
        for name, content in made["outputs"].items():
            yield File.generated(config, (PurePosixPath(source).parent / name).as_posix(), content=content)


def page_of(source: str) -> str:
    """Return the path of the page of a notebook; that of another file is its own."""
    return source.removesuffix(SUFFIX) + ".md" if source.endswith(SUFFIX) else source
