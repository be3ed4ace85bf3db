"""Reads docstrings from syntax trees, and says where they break the convention of CONTRIBUTING.md."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

Function = ast.FunctionDef | ast.AsyncFunctionDef
Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef

SHOWN_TO_USERS = {"get", "post", "put", "patch", "delete", "head", "api_route", "command", "callback"}
"""Decorators of routes and of commands, whose docstrings are the text of the API's documentation and of `--help`."""

SECTIONS = ("Args", "Returns", "Yields", "Raises")
"""The sections of a function's docstring, in their order."""

_ENTRY = re.compile(r" {4}([*\w.]+): \S")


def broken_rules(source: str) -> list[str]:
    """Return every place of a module that breaks the convention, as `line: name and what is wrong`."""
    tree = ast.parse(source)
    shown = _added_as_routes(tree)
    found = []
    for node in ast.walk(tree):
        if isinstance(node, Documented):
            text = ast.get_docstring(node)
            if text is not None and re.match(r"(Of|At least|At most)\b", text):
                found.append((node, f"begins with {text.split()[0]!r}, which is no sentence"))
    for name, node in _public_functions(tree):
        if node.name not in shown and not _is_shown_to_users(node):
            found += [(node, problem) for problem in _problems(node, is_method="." in name)]
    found += [(node, problem) for node, problem in _constants(tree, source.splitlines())]
    return [f"{getattr(node, 'lineno', 1)}: {getattr(node, 'name', 'module')} {problem}" for node, problem in found]


def _public_functions(tree: ast.Module) -> Iterator[tuple[str, Function]]:
    """Yield functions of the module and methods of its classes whose whole name is public, with that name."""
    open_: list[tuple[str, ast.Module | ast.ClassDef]] = [("", tree)]
    while open_:
        prefix, parent = open_.pop()
        for node in parent.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                open_.append((f"{prefix}{node.name}.", node))
            elif isinstance(node, Function) and not node.name.startswith("_"):
                yield prefix + node.name, node


def _problems(node: Function, *, is_method: bool) -> Iterator[str]:
    parameters = _parameters(node, is_method=is_method)
    text = ast.get_docstring(node)
    raised, by_helpers = _raised(node)
    if text is None:
        if len(parameters) >= 2 or raised or by_helpers:
            yield "has no docstring"
        return
    sections = _sections(text)
    if list(sections) != sorted(sections, key=SECTIONS.index):
        yield f"has its sections in another order than {', '.join(SECTIONS)}"
    described = [name.lstrip("*") for name in sections.get("Args", [])]
    if (len(parameters) >= 2 or "Args" in sections) and described != parameters:
        yield f"Args names {described}, and the parameters are {parameters}"
    errors = {name.rpartition(".")[2] for name in sections.get("Raises", [])}
    if raised - errors or (by_helpers and not errors):
        yield f"raises {sorted(raised - errors) or 'an error'}, which Raises does not name"
    begins_with_result = text.startswith(("Return ", "Yield "))
    if _returns_several(node) and not begins_with_result and not {"Returns", "Yields"} & sections.keys():
        yield "returns several things, and neither its first word nor Returns says which"


def _parameters(node: Function, *, is_method: bool) -> list[str]:
    """Return the names of a function's parameters in their order, without self or cls and what begins with `_`."""
    given = node.args
    names = [own.arg for own in [*given.posonlyargs, *given.args]]
    if is_method and not any(getattr(own, "id", "") == "staticmethod" for own in node.decorator_list):
        names = names[1:]
    names += [given.vararg.arg] if given.vararg else []
    names += [own.arg for own in given.kwonlyargs]
    names += [given.kwarg.arg] if given.kwarg else []
    return [name for name in names if not name.startswith("_")]


def _raised(node: Function) -> tuple[set[str], bool]:
    """Return the classes of errors that a function raises itself, and whether it raises what another function made.

    An error that is raised again, and what functions inside it raise, do not count.
    """
    classes, by_helpers = set(), False
    caught = {own.name for own in _own_nodes(node) if isinstance(own, ast.ExceptHandler)}
    for own in _own_nodes(node):
        if isinstance(own, ast.Raise) and own.exc is not None:
            error = own.exc.func if isinstance(own.exc, ast.Call) else own.exc
            name = ast.unparse(error).rpartition(".")[2]
            if name[0].isupper():
                classes.add(name)
            else:
                by_helpers = by_helpers or name not in caught
    return classes, by_helpers


def _own_nodes(node: Function) -> Iterator[ast.AST]:
    """Yield the nodes of a function without those of functions and classes inside it."""
    open_: list[ast.AST] = list(node.body)
    while open_:
        own = open_.pop()
        yield own
        if not isinstance(own, Function | ast.ClassDef | ast.Lambda):
            open_ += ast.iter_child_nodes(own)


def _sections(text: str) -> dict[str, list[str]]:
    """Return the sections of a docstring in their order, each with the names that it describes."""
    found: dict[str, list[str]] = {}
    current: list[str] | None = None
    for line in text.splitlines():
        if line and not line.startswith(" "):
            current = found.setdefault(line[:-1], []) if line.endswith(":") and line[:-1] in SECTIONS else None
        elif current is not None and (entry := _ENTRY.match(line)):
            current.append(entry[1])
    return found


def _returns_several(node: Function) -> bool:
    """Whether a function is annotated to return a tuple of several things, and not one of any length."""
    returned = node.returns
    if not isinstance(returned, ast.Subscript) or ast.unparse(returned.value) != "tuple":
        return False
    return isinstance(returned.slice, ast.Tuple) and "..." not in ast.unparse(returned.slice)


def _is_shown_to_users(node: Function) -> bool:
    calls = [own.func for own in node.decorator_list if isinstance(own, ast.Call)]
    return any(isinstance(own, ast.Attribute) and own.attr in SHOWN_TO_USERS for own in calls)


def _added_as_routes(tree: ast.Module) -> set[str]:
    """Return the names of functions that the module passes to `add_api_route`, or to a function of its own like it."""
    return {
        argument.id
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and re.search(r"\b_?add_\w*route$", ast.unparse(call.func))
        for argument in call.args
        if isinstance(argument, ast.Name)
    }


def _constants(tree: ast.Module, lines: list[str]) -> Iterator[tuple[ast.stmt, str]]:
    """Yield constants that share a line, such as `LOW, HIGH = 1, 2`, and public ones without a reason.

    Type variables are no constants. The reason is a comment, in the lines of the assignment or above it, or a string
    below it.
    """
    for node, below in zip(tree.body, [*tree.body[1:], None], strict=True):
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(target, ast.Tuple) and all(ast.unparse(name).isupper() for name in target.elts):
            yield node, f"defines {ast.unparse(target)} in one line; give each a line and its reason"
        if not isinstance(target, ast.Name) or not target.id.isupper() or target.id.startswith("_"):
            continue
        if isinstance(node.value, ast.Call) and ast.unparse(node.value.func) == "TypeVar":
            continue
        described = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
        own = lines[node.lineno - 1 : node.end_lineno]
        if not described and not any("#" in line for line in own) and not lines[node.lineno - 2].startswith("#"):
            yield node, f"gives no reason for {target.id}"


def modules_of(path: Path) -> list[Path]:
    """Return the modules of a package, or the module itself."""
    return sorted(path.rglob("*.py")) if path.is_dir() else [path]
