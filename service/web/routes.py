"""The dashboard's addresses: static files for everybody, pages for people who are signed in."""

from fastapi import APIRouter

from service.web import static_files
from service.web.pages import audits, charts, datasets, findings, new_audit, probes

router = APIRouter(include_in_schema=False)
# A new audit first: its address looks like that of an audit.
for part in (static_files, new_audit, audits, charts, findings, datasets, probes):
    router.include_router(part.router)
