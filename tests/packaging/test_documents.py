"""Documents agree with the code and with each other."""

import re
from pathlib import Path

import pytest
from pydantic import SecretStr
from pydantic_core import to_json

from service.app import create_app
from service.contract.failure import ErrorCode
from service.contract.spec import TrainingConfig
from service.findings.schemas import FindingDetail
from service.settings import Settings

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
LINK = re.compile(r"!?\[(?:[^\]\\]|\\.)*\]\(([^)\s]+)\)")


def table(document: str, name: str) -> list[list[str]]:
    """Cells of the table between the markers `name:start` and `name:end`, without its head."""
    text = (ROOT / document).read_text()
    body = text.split(f"<!-- {name}:start -->\n", 1)[1].split(f"<!-- {name}:end -->", 1)[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in body.splitlines() if line.startswith("|")]
    return rows[2:]


def headed_table(document: str, head: str) -> list[list[str]]:
    """Cells of the table that begins with the line `head`."""
    lines = (ROOT / document).read_text().split(f"{head}\n", 1)[1].splitlines()[1:]
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def shown(default: object) -> str:
    """A default as the tables write it."""
    if default is None:
        return "unset"
    return str(default) if isinstance(default, (int, float)) else f"`{to_json(default).decode()}`"


def test_the_settings_page_covers_every_setting_and_no_other() -> None:
    documented = {row[0]: row[1] for row in table("docs/settings.md", "settings")}
    expected = {
        f"`FINETOOTH_{name.upper()}`": None if field.default_factory else shown(field.get_default())
        for name, field in Settings.model_fields.items()
    }
    assert set(documented) == set(expected)
    wrong = {
        name: (text, expected[name]) for name, text in documented.items() if expected[name] not in (None, compact(text))
    }
    assert not wrong, f"documented, in the code: {wrong}"


def compact(text: str) -> str:
    return text.replace(", ", ",")


def test_api_covers_every_training_option_with_its_default() -> None:
    documented = {row[0]: row[1] for row in headed_table("docs/api.md", "| Field | Default | Meaning |")}
    assert set(documented) == {f"`{name}`" for name in TrainingConfig.model_fields}
    for name, field in TrainingConfig.model_fields.items():
        text = compact(documented[f"`{name}`"]).strip("`")
        assert text in (to_json(field.get_default()).decode().strip('"'), repr(field.get_default())), name


def test_api_covers_every_field_of_a_finding() -> None:
    documented = {name for row in table("docs/api.md", "finding-fields") for name in re.findall(r"`(\w+)`", row[0])}
    assert documented == set(FindingDetail.model_fields) - {"object"}


def test_api_covers_every_failure() -> None:
    documented = [row[0].strip("`") for row in table("docs/api.md", "failure-codes")]
    assert documented == list(ErrorCode)


def slug(heading: str) -> str:
    """The anchor of a heading: lower case, punctuation dropped, spaces to hyphens."""
    text = re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower())
    return text.strip().replace(" ", "-")


def anchors(document: Path) -> set[str]:
    text = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    return {slug(heading) for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_inside_the_repository_lead_somewhere(document: Path) -> None:
    broken = []
    for target in LINK.findall(document.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (document.parent / path).resolve() if path else document
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert not broken


def linked(document: Path) -> set[Path]:
    return {(document.parent / target.partition("#")[0]).resolve() for target in LINK.findall(document.read_text())}


def test_every_document_is_reached_from_the_readme_and_every_page_from_the_index() -> None:
    readme, index = ROOT / "README.md", ROOT / "docs" / "index.md"
    reached = linked(readme) | linked(index)
    assert index in linked(readme)
    assert set(DOCUMENTS) - reached == {readme}
    assert set(ROOT.glob("docs/**/*.md")) - linked(index) == {index}


def test_pictures_have_alternative_text() -> None:
    for document in DOCUMENTS:
        for alternative in re.findall(r"!\[([^\]]*)\]\(", document.read_text()):
            assert len(alternative) > 20, document


def test_decisions_have_the_same_parts() -> None:
    decisions = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    for number, decision in enumerate(decisions, start=1):
        assert decision.name.startswith(f"{number:04}-")
        text = decision.read_text()
        assert text.startswith(f"# {number:04}: ")
        assert re.search(r"^# .+\n\n\*\*Date\*\*: 20\d\d-\d\d-\d\d\n\n\*\*Status\*\*: ", text), decision.name
        assert re.findall(r"^## (.+)$", text, re.MULTILINE) == ["Context", "Decision", "Consequences"]


def test_the_index_lists_decisions_by_number_with_title_and_date() -> None:
    expected = []
    for decision in sorted((ROOT / "docs" / "decisions").glob("*.md")):
        text = decision.read_text()
        number, title = text.splitlines()[0].removeprefix("# ").split(": ", 1)
        date = text.split("**Date**: ", 1)[1].split("\n", 1)[0]
        expected.append([f"[{number}](decisions/{decision.name})", title, date])
    assert headed_table("docs/index.md", "| No. | Decision | Date |") == expected


@pytest.mark.parametrize("document", ["docs/statistics.md", "docs/quickstart.md"])
def test_worked_examples_quote_the_demo_as_the_readme_shows_it(document: str) -> None:
    shown_there = (ROOT / "README.md").read_text().split("<!-- demo:start -->", 1)[1].split("<!-- demo:end -->", 1)[0]
    quoted = (ROOT / document).read_text().split("```text\n", 1)[1].split("```", 1)[0].splitlines()
    assert len(quoted) == 4
    assert [line for line in quoted if line not in shown_there.splitlines()] == []


def test_make_targets_in_the_documents_exist() -> None:
    named = {
        target
        for document in DOCUMENTS
        for target in re.findall(r"(?:`|^    )make ([\w-]+)", document.read_text(), re.MULTILINE)
    }
    defined = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"demo", "test"} <= named
    assert named <= defined


def test_api_lists_every_route_and_no_other(tmp_path: Path) -> None:
    url = SecretStr("postgresql+psycopg://nobody@127.0.0.1:1/none")  # never connected to
    application = create_app(Settings(database_url=url, data_dir=tmp_path))
    served = {
        f"{method.upper()} {path}" for path, methods in application.openapi()["paths"].items() for method in methods
    }
    documented = [row[0].strip("`") for row in table("docs/api.md", "routes")]
    assert len(documented) == len(set(documented))
    assert set(documented) == served | {"GET /openapi.json"}
