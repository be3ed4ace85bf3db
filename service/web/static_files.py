"""The dashboard's stylesheet, scripts and icon: public, since they hold no data."""

from fastapi import APIRouter
from starlette.responses import FileResponse, Response

from service.http.problems.problem import Problem
from service.web.templating import STATIC, asset_hash

router = APIRouter()

STATIC_FILES: dict[str, str] = {
    "app.js": "text/javascript; charset=utf-8",
    "favicon.svg": "image/svg+xml",
    "new_audit.js": "text/javascript; charset=utf-8",
    "resumable_upload.js": "text/javascript; charset=utf-8",
    "review.js": "text/javascript; charset=utf-8",
    "style.css": "text/css; charset=utf-8",
    "upload.js": "text/javascript; charset=utf-8",
}
"""Media types by name."""


@router.get("/static/{name}")
def static_file(name: str, v: str = "") -> Response:
    """Send a static file; for ever if `v` is the hash of its content.

    Raises:
        Problem: 404 `not_found`.
    """
    if name not in STATIC_FILES:
        raise Problem(404, "not_found", "There is no such file.")
    lasting = v == asset_hash(name)
    headers = {"Cache-Control": "public, max-age=31536000, immutable" if lasting else "no-cache"}
    return FileResponse(STATIC / name, media_type=STATIC_FILES[name], headers=headers)


@router.get("/favicon.ico")
def favicon() -> Response:
    """Send the icon of documents that name none of their own, such as JSON seen in a browser."""
    return static_file("favicon.svg")
