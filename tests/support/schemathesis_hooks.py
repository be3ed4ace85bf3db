"""What Schemathesis is told of Finetooth: uploads that are datasets, and that every problem's code must be declared."""

import json
import os
from typing import Any

import schemathesis
from hypothesis import strategies as st

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
RECORDS = st.fixed_dictionaries({"prompt": TEXT, "completion": TEXT}, optional={"source": TEXT})
JSONL = st.lists(RECORDS, min_size=1, max_size=30).map(
    lambda records: "".join(json.dumps(record) + "\n" for record in records).encode()
)
schemathesis.openapi.media_type("application/jsonl", JSONL)
schemathesis.openapi.media_type("application/offset+octet-stream", st.binary(max_size=100))


@schemathesis.hook
def before_call(ctx: schemathesis.HookContext, case: schemathesis.Case, kwargs: dict[str, Any]) -> None:
    """It finds its own key in the list of keys; were it to end that, nothing more would be tested."""
    if case.path_parameters and case.path_parameters.get("key_id") == os.environ["OWN_KEY_ID"]:
        case.path_parameters["key_id"] = "key_its_own"


@schemathesis.check
def problem_code_declared(
    ctx: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case
) -> None:
    """The code of a problem document is one that the operation declares for its status."""
    declared = case.operation.definition.raw["responses"].get(str(response.status_code))
    if response.status_code < 400 or declared is None or case.method.upper() != case.operation.method.upper():
        return
    if case.method.upper() == "HEAD":  # its problems have no body
        return
    code = response.json()["code"]
    assert code in declared["x-problem-codes"], f"{case.operation.label} answers {response.status_code} {code}"
