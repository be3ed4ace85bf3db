"""The query parameters that describe a file which becomes a dataset."""

import json
from dataclasses import asdict, dataclass
from typing import Annotated

from fastapi import Depends, Query
from pydantic import Field

from service.datasets.parsing.records import FORMATS, MAX_KEY_LENGTH, Mapping
from service.http.fields import Name, Storable
from service.http.problems.problem import Problem

Column = Annotated[str, Field(min_length=1, max_length=MAX_KEY_LENGTH)]


@dataclass(frozen=True)
class UploadForm:
    """What the query of an upload says of its file, checked."""

    name: str | None
    format: str
    mapping: Mapping | None
    replaces: str | None
    """Id of the dataset of which it becomes the next version."""

    @property
    def key(self) -> str:
        """All that says how the file is read, in one text."""
        return json.dumps([self.format, None if self.mapping is None else asdict(self.mapping)])


async def upload_form(
    name: Annotated[Name | None, Query(description="What to call it; by default its id.")] = None,
    format: Annotated[
        str, Query(description=f"auto, or one of {', '.join(FORMATS)}.", json_schema_extra={"enum": ["auto", *FORMATS]})
    ] = "auto",
    prompt_column: Annotated[Column | None, Query(description="Of records in no known format: the prompt.")] = None,
    answer_column: Annotated[Column | None, Query(description="Goes with prompt_column: the answer.")] = None,
    system_column: Annotated[Column | None, Query(description="May go with them: the system's turn.")] = None,
    replaces: Annotated[
        str | None,
        Query(max_length=100, description="Id of the dataset of which it becomes the next version."),
        Storable,
    ] = None,
) -> UploadForm:
    """Check the query of an upload.

    Args:
        name: What to call the dataset; None: its id.
        format: How the file is written; auto: find out.
        prompt_column: Which column holds the prompt; None: the format says.
        answer_column: Which column holds the answer.
        system_column: Which column holds the system's turn; None: no column.
        replaces: Id of the dataset of which it becomes the next version; None: it has none before it.

    Raises:
        Problem: 422 `unknown_format`, or `invalid_request` where columns are named in part.
    """
    if format != "auto" and format not in FORMATS:
        raise Problem(
            422,
            "unknown_format",
            f"`format` is auto or one of {', '.join(FORMATS)}.",
            errors=[{"pointer": "query:format", "detail": "no such format"}],
        )
    return UploadForm(name, format, _mapping(format, prompt_column, answer_column, system_column), replaces)


UploadFormDep = Annotated[UploadForm, Depends(upload_form)]


def _mapping(format: str, prompt: str | None, answer: str | None, system: str | None) -> Mapping | None:
    given = [name for name in (prompt, answer, system) if name is not None]
    if not given:
        return None
    wrong = None
    if prompt is None or answer is None:
        wrong = ("prompt_column" if prompt is None else "answer_column", "name both columns, or none")
    elif len(set(given)) != len(given):
        wrong = ("answer_column", "name a different column for each part")
    elif format != "auto":
        wrong = ("format", "leave it out where columns are named")
    if wrong is not None:
        pointer, detail = f"query:{wrong[0]}", wrong[1]
        raise Problem(422, "invalid_request", f"{pointer}: {detail}.", errors=[{"pointer": pointer, "detail": detail}])
    assert prompt is not None
    assert answer is not None
    return Mapping(prompt, answer, system)
