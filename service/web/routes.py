"""The dashboard's addresses: static files and signing in for everybody, pages for people who are signed in."""

from fastapi import APIRouter

from service.web import static_files
from service.web.pages import (
    audit_log,
    audits,
    browsers,
    charts,
    comparison,
    datasets,
    exports,
    findings,
    new_audit,
    probes,
    saved_views,
    sign_in,
    verdicts,
)

router = APIRouter(include_in_schema=False)
# A new audit before the audits: its address looks like that of one.
for part in (
    static_files,
    sign_in,
    new_audit,
    audits,
    charts,
    findings,
    verdicts,
    saved_views,
    exports,
    comparison,
    datasets,
    probes,
    browsers,
    audit_log,
):
    router.include_router(part.router)
