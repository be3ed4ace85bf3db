"""/v1/audits/{id}/report: a finished audit as one file to read, print and keep."""

from typing import Annotated

from fastapi import Depends, Response

from service.http.auth.authentication import RequireScope
from service.http.conditional.downloads import content_disposition
from service.http.conditional.etags import NOT_MODIFIED, ConditionsDep
from service.http.dependencies import TransactionsDep
from service.http.fields import PathId
from service.http.routing import declared_problems, resource_router
from service.principal import Principal
from service.web.painting import paint
from service.web.report import content_security_policy, read_report, render_report

router = resource_router("audits")
Reader = Annotated[Principal, Depends(RequireScope("findings:read"))]
"""Who may read the findings may read the report, which has their text."""

MEDIA_TYPE = "text/html; charset=utf-8"
"""The media type of a report, a page in one file."""


@router.get(
    "/{audit_id}/report",
    operation_id="get_audit_report",
    response_class=Response,
    responses={
        200: {"content": {"text/html": {"schema": {"type": "string"}}}},
        **declared_problems(403, "audit_not_finished"),
        **NOT_MODIFIED,
    },
)
async def report(
    audit_id: PathId, principal: Reader, transactions: TransactionsDep, conditions: ConditionsDep
) -> Response:
    """The whole answer for a person who decides: one HTML file without scripts that needs nothing else."""
    found = await transactions.run(lambda session: read_report(session, principal, audit_id))
    conditions.serve(found.tag)
    content = await paint(render_report, found)
    headers = {
        "ETag": found.tag,
        "Content-Disposition": content_disposition(found.filename, "inline"),
        "Content-Security-Policy": content_security_policy(),
    }
    return Response(content, headers=headers, media_type=MEDIA_TYPE)
