"""The dashboard's addresses: static files for everybody, pages for people who are signed in."""

from fastapi import APIRouter

from service.web import static_files
from service.web.pages import audits, charts, findings, inputs, verdicts

router = APIRouter(include_in_schema=False)
for part in (static_files, audits, charts, findings, verdicts, inputs):
    router.include_router(part.router)
