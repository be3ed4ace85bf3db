"""service.http.problems.codes and docs/api.md have every code that the service can answer with, and no other."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from service import errors
from service.http.problems.codes import PROBLEM_CODES
from service.http.problems.handlers import STATUSES, problem_of

ROOT = Path(__file__).parents[4]
CODE = re.compile(r"[a-z]+(_[a-z0-9]+)*")
KINDS = {"NotFoundError": 0, "InvalidReferenceError": 0}
"""Class to the position of its argument `kind`: their code is `{kind}_not_found`."""
RAISED_BY = {
    "Problem": 1,
    "Refusal": 0,
    "DomainError": 0,
    **{kind.__name__: 0 for kind in STATUSES if kind.__name__ not in KINDS},
}
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
    """Literal codes with which errors are made, and those of kinds that are not found."""
    return literals("code", RAISED_BY) | {f"{kind}_not_found" for kind in literals("kind", KINDS)}


def literals(name: str, made_by: dict[str, int]) -> set[str]:
    """Literals that are that argument in calls of `made_by`, and in calls of functions that pass their own one on."""
    positions = dict(made_by)
    for tree in trees():
        for function in ast.walk(tree):
            if isinstance(function, ast.FunctionDef):
                names = [argument.arg for argument in (*function.args.args, *function.args.kwonlyargs)]
                for call in calls(function, made_by):
                    passed = argument_of(call, name, made_by)
                    if isinstance(passed, ast.Name) and passed.id in names:
                        positions[function.name] = names.index(passed.id)
    found = set()
    for tree in trees():
        for call in calls(tree, positions):
            given = argument_of(call, name, positions)
            if isinstance(given, ast.Constant) and isinstance(given.value, str):
                found.add(given.value)
    return found


def calls(tree: ast.AST, names: dict[str, int]) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and name_of(node) in names:
            yield node


def name_of(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")


def argument_of(call: ast.Call, name: str, positions: dict[str, int]) -> ast.expr | None:
    for keyword in call.keywords:
        if keyword.arg == name:
            return keyword.value
    position = positions[name_of(call)]
    return call.args[position] if len(call.args) > position else None


def test_every_code_is_documented_once() -> None:
    codes = documented()
    assert len(codes) == len(set(codes))
    assert codes == [code for code, _ in sorted(PROBLEM_CODES.items(), key=lambda entry: entry[1].statuses[0])]
    found = raised()
    lost = {"unauthenticated", "audit_not_finished", "audit_group_not_found", "export_not_found"} - found
    assert not lost, "the search has lost its way"
    assert all(CODE.fullmatch(code) for code in found)
    assert found - set(codes) == set()


def test_errors_have_the_statuses_of_their_codes() -> None:
    for name in {*RAISED_BY, *KINDS} - {"Problem", "Refusal", "DomainError"}:
        if name in KINDS:
            codes = {f"{kind}_not_found" for kind in literals("kind", {name: KINDS[name]})}
        else:
            codes = literals("code", {name: 0})
        status = problem_of(getattr(errors, name)("x", "y")).status
        assert {code for code in codes if status not in PROBLEM_CODES[code].statuses} == set(), name


def test_no_code_is_documented_that_nothing_answers() -> None:
    written = {
        node.value
        for tree in trees(without="codes.py")
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    known = written | raised()
    unknown = {code for code in documented() if code not in known and not built(code, written)}
    assert not unknown


def built(code: str, written: set[str]) -> bool:
    """Codes such as f"{resource}_in_use"."""
    head, _, tail = code.partition("_")
    return head in written and f"_{tail}" in written
