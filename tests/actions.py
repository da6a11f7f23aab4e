"""As much of GitHub Actions as the workflows use: what triggers one, and what its expressions say. Anything else is an error.

Sources: docs.github.com, "Evaluate expressions in workflows and actions" and "Workflow syntax", filter pattern cheat sheet.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

Context = Mapping[str, Any]
Workflow = dict[str, Any]
Job = dict[str, Any]

TOKEN = re.compile(
    r"\s*(?:(?P<string>'(?:[^']|'')*')|(?P<number>\d+)|(?P<name>[A-Za-z_][\w.-]*)|(?P<sign>==|!=|&&|\|\||[!(),]))"
)


def load(file: Path) -> Workflow:
    """Read a workflow with all its scalars as text: YAML 1.1 would take `on` for a boolean."""
    workflow: Workflow = yaml.load(file.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    return workflow


def starts(workflow: Workflow, event: str, ref: str) -> bool:
    """Whether this event on this ref starts the workflow."""
    if event not in workflow["on"]:
        return False
    filters = workflow["on"][event] if event == "push" else None
    if not filters:
        return True
    kind, name = ("tags", ref[10:]) if ref.startswith("refs/tags/") else ("branches", ref.removeprefix("refs/heads/"))
    return any(re.fullmatch(as_regex(pattern), name) for pattern in filters.get(kind, []))


def as_regex(pattern: str) -> str:
    """A filter pattern: `*` stops at a slash; `?`, `+` and `[]` are as in regular expressions; a dot is a dot."""
    assert not re.search(r"\*\*|\\|!", pattern), f"not known here: {pattern}"
    return pattern.replace(".", r"\.").replace("*", "[^/]*")


def evaluate(text: str, context: Context) -> Any:
    """The value of a text: of one expression as such, else the text with its expressions filled in."""
    if whole := re.fullmatch(r"\$\{\{((?:[^}']|'[^']*')*)\}\}", text.strip()):
        return Expression(whole[1], context).value()
    return re.sub(r"\$\{\{(.*?)\}\}", lambda found: as_text(Expression(found[1], context).value()), text)


def condition(text: str, context: Context) -> bool:
    """The value of an `if`, which needs no `${{ }}`."""
    return bool(Expression(text, context).value())


def scripts(workflow: Workflow, job: str, context: Context) -> Iterator[tuple[str, dict[str, str]]]:
    """Each `run` step of a job that its `if` lets run, with the environment that the workflow sets for it."""
    for step in workflow["jobs"][job]["steps"]:
        if "run" in step and condition(step.get("if", "true"), context):
            yield step["run"], environment(context, workflow, workflow["jobs"][job], step)


def environment(context: Context, *levels: Mapping[str, Any]) -> dict[str, str]:
    """The variables that a workflow, a job and a step set; the last one wins."""
    return {name: value for level in levels for name, value in evaluated(level.get("env", {}), context).items()}


def evaluated(texts: Mapping[str, str], context: Context) -> dict[str, str]:
    return {name: as_text(evaluate(text, context)) for name, text in texts.items()}


def as_text(value: Any) -> str:
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


class Expression:
    """Reads an expression from the left: each method takes what it is named after, and gives its value."""

    def __init__(self, text: str, context: Context) -> None:
        self.context = context
        self.tokens = [*self._tokens(text.strip()), ("end", "")]

    @staticmethod
    def _tokens(text: str) -> Iterator[tuple[str, str]]:
        position = 0
        while position < len(text):
            found = TOKEN.match(text, position)
            assert found, f"not known here: {text[position:]}"
            yield str(found.lastgroup), found[str(found.lastgroup)]
            position = found.end()

    def value(self) -> Any:
        value = self._either()
        assert self.tokens == [("end", "")], f"not known here: {self.tokens}"
        return value

    def _takes(self, sign: str) -> bool:
        return self.tokens[0] == ("sign", sign) and bool(self.tokens.pop(0))

    def _either(self) -> Any:
        value = self._both()
        while self._takes("||"):
            other = self._both()
            value = value or other
        return value

    def _both(self) -> Any:
        value = self._comparison()
        while self._takes("&&"):
            other = self._comparison()
            value = value and other
        return value

    def _comparison(self) -> Any:
        value = self._operand()
        for sign, wanted in (("==", True), ("!=", False)):
            if self._takes(sign):
                return (as_text(value).lower() == as_text(self._operand()).lower()) is wanted
        return value

    def _operand(self) -> Any:
        if self._takes("!"):
            return not self._operand()
        if self._takes("("):
            value = self._either()
            assert self._takes(")")
            return value
        kind, token = self.tokens.pop(0)
        if kind == "string":
            return token[1:-1].replace("''", "'")
        assert kind == "name", f"not known here: {token}"
        return self._call(token) if self._takes("(") else self._look_up(token)

    def _call(self, function: str) -> Any:
        arguments = []
        while not self._takes(")"):
            arguments.append(as_text(self._either()))
            self._takes(",")
        return FUNCTIONS[function](*arguments)

    def _look_up(self, name: str) -> Any:
        if name in LITERALS:
            return LITERALS[name]
        value: Any = self.context
        for part in name.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        return value


LITERALS = {"true": True, "false": False, "null": None}

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "startsWith": lambda text, start: text.lower().startswith(start.lower()),
    "hashFiles": lambda *patterns: f"hash of {' '.join(patterns)}",
}
