"""Extension of Python-Markdown: only what CommonMark takes for a tag is one, and <w, v> remains an inner product."""

from markdown import Extension, Markdown
from markdown.inlinepatterns import HtmlInlineProcessor
from markdown_it.common.html_re import HTML_TAG_RE

_PRIORITY = 90
"""That of the pattern that is replaced."""


class HtmlTags(Extension):  # type: ignore[misc]
    """Replaces the pattern of tags within a line."""

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802 - the name that Markdown calls
        """Replace it."""
        pattern = HtmlInlineProcessor(f"({HTML_TAG_RE.pattern.removeprefix('^')})", md)
        md.inlinePatterns.register(pattern, "html", _PRIORITY)


makeExtension = HtmlTags  # noqa: N816 - the name that Markdown looks for
