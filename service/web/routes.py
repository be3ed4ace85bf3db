"""The dashboard's addresses: static files and signing in for everybody, pages for people who are signed in."""

from fastapi import APIRouter

from service.web import static_files
from service.web.pages import audit_log, audits, browsers, charts, findings, inputs, sign_in, verdicts

router = APIRouter(include_in_schema=False)
for part in (static_files, sign_in, audits, charts, findings, verdicts, inputs, browsers, audit_log):
    router.include_router(part.router)
