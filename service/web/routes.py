"""The dashboard's addresses: static files and signing in for everybody, pages for people who are signed in."""

from fastapi import APIRouter

from service.web import static_files
from service.web.pages import (
    account,
    audit_log,
    audits,
    browsers,
    charts,
    comparison,
    datasets,
    exports,
    findings,
    keys,
    live,
    models,
    new_audit,
    people,
    probes,
    saved_views,
    sign_in,
    single_sign_on,
    usage,
    verdicts,
    workers,
)

router = APIRouter(include_in_schema=False)
# A new audit before the audits: its address looks like that of one.
for part in (
    static_files,
    sign_in,
    single_sign_on,
    new_audit,
    audits,
    live,
    charts,
    findings,
    verdicts,
    saved_views,
    exports,
    comparison,
    datasets,
    probes,
    models,
    browsers,
    people,
    keys,
    account,
    audit_log,
    workers,
    usage,
):
    router.include_router(part.router)
