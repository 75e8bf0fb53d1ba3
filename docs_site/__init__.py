"""What the documentation has as a site beside the Markdown files in docs/: `make docs`."""
