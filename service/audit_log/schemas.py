"""Entries of the audit log as the API shows them."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field

from service.store.tables import AuditLogEntry


class LogEntry(BaseModel):
    """What somebody changed."""

    object: Literal["log_entry"] = "log_entry"
    id: str
    at: datetime
    key_id: str | None = Field(description="The key that it was done with, by program or browser; else null.")
    key_name: str | None = Field(description="As it was called then.")
    user_id: str | None = Field(description="The person who did it; null for a key, and where the service did it.")
    user_name: str | None = Field(description="What the person was called then.")
    action: str = Field(description="What was done, such as `audit.create`.")
    object_id: str | None = Field(description="What it was done to; null where it is several things.")
    count: int | None = Field(description="How many things were changed, where one request is about several.")
    client: str | None = Field(description="The address that the request came from.")
    request_id: str | None


def render_entry(entry: AuditLogEntry) -> LogEntry:
    """Show the entry as the API does."""
    return LogEntry(
        id=entry.id,
        at=entry.at,
        key_id=entry.key_id,
        key_name=entry.key_name,
        user_id=entry.user_id,
        user_name=entry.user_name,
        action=entry.action,
        object_id=entry.object_id,
        count=entry.count,
        client=entry.client,
        request_id=entry.request_id,
    )
