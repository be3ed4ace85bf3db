"""The dashboard's addresses: static files for everybody, pages for people who are signed in."""

from fastapi import APIRouter

from service.web import static_files
from service.web.pages import audits, charts, datasets, findings, probes

router = APIRouter(include_in_schema=False)
for part in (static_files, audits, charts, findings, datasets, probes):
    router.include_router(part.router)
