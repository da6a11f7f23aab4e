"""Names and descriptions of all kinds, read back from every file in which they appear."""

import ast
import re
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import pytest
import tomli
from cookiecutter.generate import generate_context, generate_file
from cookiecutter.prompt import prompt_for_config
from cookiecutter.utils import create_env_with_context, work_in
from jinja2 import FileSystemLoader
from markdown_it import MarkdownIt

from tests.combinations import POSTGRES_VENV_GPU, SQLITE_PIP, SQLITE_UV, TEMPLATE
from tests.conftest import Bake
from tests.sandbox import SCRIPTS, environment, files, run
from tests.updates import PROJECT

HOSTILE = [
    'Ann\'s "Tasks"',
    "'''\"\"\"",
    'ends with "',
    "ends with '",
    "ends with \\",
    "\\n \\\\ \\x41 \\N{DASH} \\u00e4",
    "{name} {0} }} {} $name ${name} $(id) `id`",
    "%s %(name)s %% $$ {x!r}",
    "Größe, ñandú, Ελλάς, 任务, مهام, e\u0301",
    "🚀 👩\u200d💻 🇩🇪",
    "# Title",
    "*a* _b_ **c** __d__ ~~e~~ `f` [g](h) ![i](j)",
    "<b>k</b> <!-- --> &amp; &lt; | l | --- |",
    "- item",
    "+ item",
    "1. item",
    "2) item",
    "---",
    "===",
    "> quote",
    "https://example.com/a_b",
    "yes",
    "null",
    "0123",
    ": # !tag &anchor *alias @ ? - ,[]",
    "任" * 50,
    "\\" * 50,
    "x" * 50,
    "x " * 24 + "xx",
]


def inline_text(markdown: str, kind: str) -> str:
    """The text of the first heading or paragraph as displayed."""
    tokens = MarkdownIt("commonmark").enable(["strikethrough", "table"]).parse(markdown)
    position = next(number for number, token in enumerate(tokens) if token.type == f"{kind}_open")
    assert position == {"heading": 0, "paragraph": 3}[kind], "it has turned into something else"
    return "".join(child.content for child in tokens[position + 1].children or [])


def python_constant(source: str, name: str) -> str:
    match = re.search(rf"^{name} = (.*)$", source, re.MULTILINE)
    assert match
    return str(ast.literal_eval(match[1]))


def label(dockerfile: str, name: str) -> str:
    match = re.search(rf'{name}="((?:[^"\\]|\\.)*)"', dockerfile)
    assert match
    assert not re.search(r"(?<!\\)(\\\\)*\$", match[1]), "a variable"
    return re.sub(r"\\(.)", r"\1", match[1])


READ_BACK: dict[str, dict[str, Callable[[str], str]]] = {
    "project_name": {
        "Dockerfile": lambda text: label(text, "title"),
        "README.md": lambda text: inline_text(text, "heading"),
        "app/settings.py": lambda text: python_constant(text, "TITLE"),
    },
    "description": {
        "Dockerfile": lambda text: label(text, "description"),
        "README.md": lambda text: inline_text(text, "paragraph"),
        "pyproject.toml": lambda text: str(tomli.loads(text)["project"]["description"]),
    },
}


def test_every_place_where_a_name_appears_is_known(bake: Bake) -> None:
    for combination in (SQLITE_UV, SQLITE_PIP, POSTGRES_VENV_GPU):
        marks = {question: f"{question.title().replace('_', '')}AppearsHere" for question in READ_BACK}
        rendered = files(bake(**combination._asdict(), project_slug="other", **marks))
        for question, mark in marks.items():
            assert {name for name, content in rendered.items() if mark.encode() in content} == set(READ_BACK[question])


def render(folder: Path, **answers: str) -> Path:
    """Only the files in which names appear: to render all would take a second."""
    context = generate_context(str(TEMPLATE / "cookiecutter.json"), extra_context=answers)
    context["cookiecutter"] = prompt_for_config(context, no_input=True)
    env = create_env_with_context(context)
    env.loader = FileSystemLoader([".", "../templates"])
    with work_in(TEMPLATE / PROJECT):
        for name in chain(*READ_BACK.values()):
            (folder / name).parent.mkdir(exist_ok=True)
            generate_file(str(folder), name, context, env)
    return folder


@pytest.mark.parametrize("value", HOSTILE)
def test_any_name_is_the_same_everywhere(value: str, tmp_path: Path) -> None:
    project = render(tmp_path, project_slug="other", **dict.fromkeys(READ_BACK, value))
    for question, places in READ_BACK.items():
        for name, read in places.items():
            assert read((project / name).read_text()) == value, f"{question} in {name}"
    checked = [Path("app", "settings.py")]
    run(SCRIPTS / "ruff", "format", "--check", "--no-cache", *checked, cwd=project, env=environment())
    # It recognizes first-party imports by files, most of which are missing here.
    run(SCRIPTS / "ruff", "check", "--no-cache", "--ignore=I001", *checked, cwd=project, env=environment())


def test_a_long_description_stays_on_one_line(tmp_path: Path) -> None:
    value = 'It\'s "long" ' * 24 + "and ends"
    project = render(tmp_path, description=value)
    for name, read in READ_BACK["description"].items():
        assert read((project / name).read_text()) == value
