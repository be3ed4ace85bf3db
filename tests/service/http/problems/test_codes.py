"""service.http.problems.codes and docs/api.md have every code that the service can answer with, and no other."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from service.http.problems.codes import PROBLEM_CODES

ROOT = Path(__file__).parents[4]
CODE = re.compile(r"[a-z]+(_[a-z0-9]+)*")
RAISED_BY = {"Problem": 1, "Refusal": 0}
"""Class to the position of its argument `code`."""


def documented() -> list[str]:
    text = (ROOT / "docs" / "api.md").read_text()
    body = text.split("<!-- problem-codes:start -->", 1)[1].split("<!-- problem-codes:end -->", 1)[0]
    return re.findall(r"^\| `(\w+)` \|", body, re.MULTILINE)


def trees(without: str = "") -> Iterator[ast.AST]:
    for path in (ROOT / "service").rglob("*.py"):
        if path.name != without:
            yield ast.parse(path.read_text())


def raised() -> set[str]:
    """Literal codes in calls of RAISED_BY, and in calls of functions that pass their own argument on as the code."""
    positions = dict(RAISED_BY)
    for tree in trees():
        for function in ast.walk(tree):
            if isinstance(function, ast.FunctionDef):
                names = [argument.arg for argument in function.args.args]
                for call in calls(function, RAISED_BY):
                    code = argument_of(call, RAISED_BY)
                    if isinstance(code, ast.Name) and code.id in names:
                        positions[function.name] = names.index(code.id)
    found = set()
    for tree in trees():
        for call in calls(tree, positions):
            code = argument_of(call, positions)
            if isinstance(code, ast.Constant) and isinstance(code.value, str):
                found.add(code.value)
    return found


def calls(tree: ast.AST, names: dict[str, int]) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and name_of(node) in names:
            yield node


def name_of(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")


def argument_of(call: ast.Call, positions: dict[str, int]) -> ast.expr | None:
    for keyword in call.keywords:
        if keyword.arg == "code":
            return keyword.value
    position = positions[name_of(call)]
    return call.args[position] if len(call.args) > position else None


def test_every_code_is_documented_once() -> None:
    codes = documented()
    assert len(codes) == len(set(codes))
    assert codes == [code for code, _ in sorted(PROBLEM_CODES.items(), key=lambda entry: entry[1].statuses[0])]
    found = raised()
    assert "unauthenticated" in found, "the search has lost its way"
    assert all(CODE.fullmatch(code) for code in found)
    assert found - set(codes) == set()


def test_no_code_is_documented_that_nothing_answers() -> None:
    literals = {
        node.value
        for tree in trees(without="problem_codes.py")
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    unknown = {code for code in documented() if code not in literals and not built(code, literals)}
    assert not unknown


def built(code: str, literals: set[str]) -> bool:
    """Codes such as f"{resource}_not_found"."""
    head, _, tail = code.partition("_")
    return head in literals and f"_{tail}" in literals
