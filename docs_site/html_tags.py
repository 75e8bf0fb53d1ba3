"""Extension of Python-Markdown that recognises the same tags as CommonMark: <w, v> remains an inner product."""

from markdown import Extension, Markdown
from markdown.inlinepatterns import HtmlInlineProcessor
from markdown_it.common.html_re import HTML_TAG_RE

_PRIORITY = 90
"""Priority of the pattern that this one replaces."""


class HtmlTags(Extension):  # type: ignore[misc]
    """Replaces the pattern of tags within a line by that of CommonMark."""

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802 - the name that Markdown calls
        """Replace the pattern."""
        pattern = HtmlInlineProcessor(f"({HTML_TAG_RE.pattern.removeprefix('^')})", md)
        md.inlinePatterns.register(pattern, "html", _PRIORITY)


makeExtension = HtmlTags  # noqa: N816 - the name that Markdown looks for
