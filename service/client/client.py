"""A client of Finetooth's REST API. Answers are the API's JSON objects as dictionaries; see docs/api.md."""

from service.client.access import Access
from service.client.audits import Audits
from service.client.datasets import Datasets
from service.client.exports import Exports
from service.client.findings import Findings
from service.client.models import Models
from service.client.probes import Probes
from service.client.verdicts import Verdicts


class Client(Datasets, Probes, Models, Audits, Findings, Verdicts, Exports, Access):
    """A connection to one service with one key. Close it, or use it as a context manager.

    Every method raises ApiError where the API refuses, and UnreachableError where it does not answer.
    """
