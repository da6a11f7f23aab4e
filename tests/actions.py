"""The parts of GitHub Actions that the workflows use: triggers and expressions. Anything else is an error.

Sources: docs.github.com, "Evaluate expressions in workflows and actions" and "Workflow syntax", filter pattern cheat sheet.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

Context = Mapping[str, Any]
Workflow = dict[str, Any]
Job = dict[str, Any]


def load(file: Path) -> Workflow:
    """Read a workflow with all scalars as strings: YAML 1.1 would read `on` as a boolean."""
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
    """Convert a filter pattern: `*` stops at a slash; `?`, `+` and `[]` are as in regular expressions; a dot is a dot."""
    assert not re.search(r"\*\*|\\|!", pattern), f"not known here: {pattern}"
    return pattern.replace(".", r"\.").replace("*", "[^/]*")


def evaluate(text: str, context: Context) -> Any:
    """The value of a text: that of an expression, or the text with its expressions filled in."""
    if whole := re.fullmatch(r"\$\{\{([^}]*)\}\}", text.strip()):
        return value_of(whole[1], context)
    return re.sub(r"\$\{\{(.*?)\}\}", lambda found: as_text(value_of(found[1], context)), text)


def condition(text: str, context: Context) -> bool:
    """The value of an `if`, which needs no `${{ }}`."""
    return bool(value_of(text, context))


def scripts(workflow: Workflow, job: str, context: Context) -> Iterator[tuple[str, dict[str, str]]]:
    """The `run` steps of a job whose `if` is true, each with the environment that the workflow sets for it."""
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


class Fields(dict[str, Any]):
    """A part of the context. Missing fields, and fields of missing fields, have no value."""

    def __getattr__(self, name: str) -> Any:
        value = self.get(name)
        return Fields(value or {}) if isinstance(value, Mapping | None) else value


# Python has these under other names. Strings, parentheses, `==` and `!=` are the same.
PYTHON = [(r"&&", " and "), (r"\|\|", " or "), (r"!(?!=)", " not "), (r"\btrue\b", "True"), (r"\bfalse\b", "False")]

FUNCTIONS = {
    "startsWith": lambda text, start: text.startswith(start),
    "hashFiles": lambda *patterns: f"hash of {' '.join(patterns)}",
}


def value_of(expression: str, context: Context) -> Any:
    """Evaluate an expression in Python. Unlike on GitHub, `==` is case-sensitive and converts nothing."""
    assert re.fullmatch(r"(?:'[^']*'|[\w.!=&|(), ])*", expression.strip()), f"not known here: {expression}"
    for pattern, replacement in PYTHON:
        expression = re.sub(pattern, replacement, expression)
    names = {name: Fields(context.get(name, {})) for name in ("github", "matrix", "runner", "secrets", "steps", "vars")}
    value = eval(expression.strip(), {"__builtins__": {}, **FUNCTIONS, **names})
    return None if value == {} else value
