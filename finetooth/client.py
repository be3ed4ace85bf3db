"""A client of Finetooth's REST API, and the errors that it raises. Needs `pip install 'finetooth[client]'`."""

from finetooth.extras import needs_extra

with needs_extra("client", "finetooth.client"):
    from service.client import ApiError, Client, ExportError, UnreachableError

__all__ = ["ApiError", "Client", "ExportError", "UnreachableError"]
