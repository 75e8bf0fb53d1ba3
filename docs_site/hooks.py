"""Hooks that mkdocs calls while it builds the site, see mkdocs.yml."""

import json
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

from docs_site.generated import openapi_document, with_generated_parts
from docs_site.notebooks import notebook_pages
from docs_site.repository_files import files_outside_of_the_documents, with_links_of_the_site

_OPENAPI_OPTIONS = "techdocs-owl"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files outside of docs/ that are part of the site, and pages for the notebooks."""
    for file in [*files_outside_of_the_documents(config), *notebook_pages(config)]:
        files.append(file)
    return files


@event_priority(100)  # before the plugin that replaces the page of the OpenAPI document
def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Insert the generated parts of a page, and let its links lead to the same files as in the repository."""
    markdown = with_links_of_the_site(markdown, page.file.src_uri)
    if options := page.meta.get(_OPENAPI_OPTIONS):
        title, _, introduction = markdown.strip().partition("\n")
        specification = Path(config.site_dir) / "openapi.json"
        specification.parent.mkdir(parents=True, exist_ok=True)
        specification.write_text(json.dumps(openapi_document(), indent=1))
        options |= {"spec": str(specification), "title": title.removeprefix("# "), "intro": introduction.strip()}
    return with_generated_parts(markdown)
