"""A client of Finetooth's REST API: `Client`, and what it raises."""

from service.client.client import Client
from service.client.errors import ApiError, ExportError, UnreachableError

__all__ = ["ApiError", "Client", "ExportError", "UnreachableError"]
