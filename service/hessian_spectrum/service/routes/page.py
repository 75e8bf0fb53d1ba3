"""`GET /`: the page for people, which uses the API as any other client does, and its files."""

from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles

from hessian_spectrum.service.config import PAGE_FILES
from hessian_spectrum.service.middleware.security_headers import PAGE_POLICY

_DIRECTORY = Path(__file__).parents[1] / "page"

_UNCHANGED_IF_CONFIRMED = {"Cache-Control": "no-cache"}
"""Browsers ask whether a file has changed, so that a new release is seen at once."""


class _Files(StaticFiles):
    """Files that browsers keep, but ask for at each use."""

    def file_response(self, *arguments: Any, **options: Any) -> Response:
        """Return the file, or 304 if the caller has it."""
        response = super().file_response(*arguments, **options)
        response.headers.update(_UNCHANGED_IF_CONFIRMED)
        return response


def add_page(app: FastAPI) -> None:
    """Serve the page and its files; uPlot, which draws, comes from the package that brings it."""
    headers = {**_UNCHANGED_IF_CONFIRMED, "Content-Security-Policy": PAGE_POLICY}

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(_DIRECTORY / "index.html", headers=headers)

    # read without an import of the package, which would load IPython
    plots = Path(str(distribution("uplot-python").locate_file("uplot/static")))
    app.mount(f"{PAGE_FILES}uplot", _Files(directory=plots), name="uplot")
    app.mount(PAGE_FILES.rstrip("/"), _Files(directory=_DIRECTORY), name="page-files")
