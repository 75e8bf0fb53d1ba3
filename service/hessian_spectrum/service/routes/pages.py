"""`/docs`: the documentation page, which loads nothing from other servers."""

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse

from hessian_spectrum.service.middleware.security_headers import documentation_policy

_FILES = "/static-offline-docs"


def add_documentation_page(app: FastAPI) -> None:
    """Serve `/docs` from the files of fastapi-offline, with a content security policy that allows its own script."""
    made = get_swagger_ui_html(
        openapi_url=app.openapi_url or "",
        title=app.title,
        swagger_js_url=f"{_FILES}/swagger-ui-bundle.js",
        swagger_css_url=f"{_FILES}/swagger-ui.css",
        swagger_favicon_url=f"{_FILES}/favicon.png",
        swagger_ui_parameters={"validatorUrl": None},
    )
    page = bytes(made.body)
    policy = {"Content-Security-Policy": documentation_policy(page)}

    @app.get("/docs", include_in_schema=False)
    async def documentation() -> HTMLResponse:
        return HTMLResponse(page, headers=policy)
