"""Renews what is derived from the code: docs/openapi.json, and the table of problem codes in docs/api.md.

Run by `make openapi`; a test fails while either differs from the code.
"""

import json
import tempfile
from pathlib import Path

from pydantic import SecretStr

from service.app import create_app
from service.http.problems.codes import PROBLEM_CODES
from service.settings import Settings

ROOT = Path(__file__).parents[1]
START, END = "<!-- problem-codes:start -->\n", "<!-- problem-codes:end -->"


def document() -> str:
    """The OpenAPI document of the code, under the settings' defaults."""
    with tempfile.TemporaryDirectory() as folder:
        url = SecretStr("postgresql+psycopg://nobody@127.0.0.1:1/none")  # never connected to
        schema = create_app(Settings(database_url=url, data_dir=Path(folder))).openapi()
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def problem_codes() -> str:
    """The table of docs/api.md."""
    lines = ["| Code | Status | When |", "|---|---|---|"]
    for code, (statuses, when) in sorted(PROBLEM_CODES.items(), key=lambda entry: entry[1].statuses[0]):
        lines.append(f"| `{code}` | {', '.join(map(str, statuses))} | {when} |")
    return "\n".join(lines) + "\n"


def with_problem_codes(text: str) -> str:
    """docs/api.md with the table as it ought to be."""
    head, _, rest = text.partition(START)
    return head + START + problem_codes() + END + rest.partition(END)[2]


if __name__ == "__main__":
    (ROOT / "docs" / "openapi.json").write_text(document())
    api = ROOT / "docs" / "api.md"
    api.write_text(with_problem_codes(api.read_text()))
