"""Creates the pictures in docs/ from a real run: `make pictures`, with chromium on PATH.

The recording is an animated SVG of a terminal, from the first command to a tool call by an assistant. The screenshots are
of the service's pages.
"""

import re
import tempfile
import time
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import pexpect
import pyte

from tests import browser, updates
from tests.combinations import TEMPLATE
from tests.sandbox import SCRIPTS, environment, make_path, run

DOCS = TEMPLATE / "docs"
API = "http://localhost:8000"
MCP = "http://localhost:8051/mcp"
COLUMNS, ROWS = 100, 26
WIDTH, HEIGHT, MARGIN = 8.4, 19, 16  # of a character and around all of them, in pixels
PAUSE = 1.5
"""At most this many seconds without a change are shown; installing the service takes longer."""
TYPING = 0.05
LAST = 6.0

COLORS = {
    "default": "#d0d7de",
    "black": "#6e7781",
    "red": "#ff7b72",
    "green": "#7ee787",
    "brown": "#f2cc60",
    "blue": "#79c0ff",
    "magenta": "#d2a8ff",
    "cyan": "#76e3ea",
    "white": "#f0f6fc",
}

Line = tuple[tuple[int, str, str, bool], ...]
"""Pieces with the same style: the column, the text, the colour, and whether it is bold."""


class Frame(NamedTuple):
    at: float
    longest: float
    """At most this many seconds are shown."""
    lines: list[Line]


class Terminal:
    """A terminal that runs one shell after another and records its screen."""

    def __init__(self, env: dict[str, str], home: Path) -> None:
        self.home = str(home)
        self.env = {**env, "PS1": "$ ", "PROMPT_COMMAND": "echo", "TERM": "xterm-256color"}
        self.frames: list[Frame] = []
        self.shells: list[pexpect.spawn[str]] = []

    def open(self, folder: Path) -> None:
        self.screen = pyte.Screen(COLUMNS, ROWS)
        self.stream = pyte.Stream(self.screen)
        self.shell = pexpect.spawn(
            "bash --norc --noprofile", cwd=str(folder), env=self.env, dimensions=(ROWS, COLUMNS), encoding="utf-8"
        )
        self.shells.append(self.shell)
        self.printed = ""
        self.wait_for(r"\$ $")

    def type(self, text: str) -> None:
        for character in text:
            self.shell.send(character)
            self.watch(0.03, longest=TYPING)
        self.printed = ""
        self.shell.send("\r")

    def wait_for(self, pattern: str, seconds: float = 300) -> None:
        """Watch until this is printed after what was typed."""
        deadline = time.monotonic() + seconds
        while not re.search(pattern, self.printed):
            assert time.monotonic() < deadline, self.printed
            self.watch(0.1)
        self.watch(0.5)

    def watch(self, seconds: float, longest: float = PAUSE) -> None:
        """Record what is printed within this time."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            try:
                text = self.shell.read_nonblocking(4096, left).replace(self.home, "~")
            except pexpect.TIMEOUT:
                break
            self.printed += text
            self.stream.feed(text)
        lines = [look(self.screen.buffer[row]) for row in range(ROWS)]
        if not self.frames or self.frames[-1].lines != lines:
            self.frames.append(Frame(time.monotonic(), longest, lines))

    def close(self) -> None:
        for shell in self.shells:
            shell.close(force=True)


def look(row: Any) -> Line:
    pieces: list[tuple[int, str, str, bool]] = []
    for column in range(COLUMNS):
        cell = row[column]
        color = COLORS.get(cell.fg.removeprefix("bright"), COLORS["default"])
        if pieces and pieces[-1][2:] == (color, cell.bold):
            start, text = pieces[-1][:2]
            pieces[-1] = (start, text + cell.data, color, cell.bold)
        else:
            pieces.append((column, cell.data, color, cell.bold))
    return tuple((start, text.rstrip(), color, bold) for start, text, color, bold in pieces if text.strip())


def svg(frames: list[Frame]) -> str:
    """An animation that scrolls through all frames. Each distinct line is stored once."""
    known: dict[Line, int] = {}
    pictures, moments, elapsed = [], [], 0.0
    for number, frame in enumerate(frames):
        shown = [(row, known.setdefault(line, len(known))) for row, line in enumerate(frame.lines) if line]
        uses = "".join(f'<use href="#l{name}" y="{row * HEIGHT}"/>' for row, name in shown)
        pictures.append(f'<g transform="translate(0 {number * ROWS * HEIGHT})">{uses}</g>')
        moments.append(elapsed)
        elapsed += LAST if frame is frames[-1] else min(frames[number + 1].at - frame.at, frame.longest)
    steps = "".join(
        f"{moment / elapsed:.3%}{{transform:translateY(-{number * ROWS * HEIGHT}px)}}"
        for number, moment in enumerate(moments)
    )
    width, height = round(COLUMNS * WIDTH), ROWS * HEIGHT
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width + 2 * MARGIN} {height + 2 * MARGIN}" font-size="14">
<style>
text{{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;white-space:pre}}
.film{{animation:film {elapsed:.1f}s steps(1,end) infinite}}
@keyframes film{{{steps}}}
</style>
<defs>{"".join(f'<g id="l{name}">{"".join(map(piece, line))}</g>' for line, name in known.items())}</defs>
<rect width="100%" height="100%" rx="8" fill="#0d1117"/>
<svg x="{MARGIN}" y="{MARGIN}" width="{width}" height="{height}"><g class="film">{"".join(pictures)}</g></svg>
</svg>
"""


def piece(of_line: tuple[int, str, str, bool]) -> str:
    start, text, color, bold = of_line
    weight = ' font-weight="bold"' if bold else ""
    length = f'textLength="{len(text) * WIDTH:.1f}" lengthAdjust="spacingAndGlyphs"'
    return f'<text x="{start * WIDTH:.1f}" y="14" fill="{color}" {length}{weight}>{escape(text)}</text>'


def find_python(folder: Path) -> Path:
    """The Python that a project's Makefile finds, which the recording calls by a shorter path."""
    folder.mkdir()
    run(SCRIPTS / "cookiecutter", TEMPLATE, "--no-input", "--default-config", cwd=folder, env=environment())
    rule = ("--eval", "print-python: ; @echo $(PYTHON)", "print-python")
    return Path(run("make", "--silent", *rule, cwd=folder / "task-service", env=environment()).stdout.strip())


def record(terminal: Terminal, folder: Path) -> None:
    """Render a service, start it and call it, and leave it running."""
    terminal.open(folder)
    terminal.type(f"cookiecutter {updates.SHORT_ADDRESS}")
    for question in range(1, 10):
        terminal.wait_for(rf"\[{question}/9\](.|\n)*: ?$")
        terminal.type("")
    terminal.wait_for(r"\$ $")
    terminal.type("cd task-service && make dev")
    terminal.wait_for("and MCP at")
    terminal.watch(PAUSE)

    terminal.open(folder / "task-service")
    terminal.type("export API_KEY=$(make -s key)  # in a second terminal")
    terminal.wait_for(r"\$ $")
    terminal.type(f"""curl {API}/tasks -H "X-API-Key: $API_KEY" --json '{{"title": "Send the invoice"}}'""")
    terminal.wait_for(r"\$ $")
    terminal.watch(PAUSE)
    terminal.type("# Asked what is still open, an assistant calls a tool over MCP:")
    call = '{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "list_tasks", "arguments": {"status": "todo"}}}'
    terminal.type(f"""curl {MCP} -H "Authorization: Bearer $API_KEY" --json '{call}'""")
    terminal.wait_for(r"\$ $")


def take_screenshots() -> None:
    with browser.page() as (page, _):
        browser.open_redoc(page, API)
        page.screenshot(path=DOCS / "redoc.png")
        browser.open_swagger_ui(page, API)
        page.screenshot(path=DOCS / "swagger-ui.png")


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        served = home / "github" / updates.ADDRESS.removeprefix("https://github.com/")
        run("git", "clone", "--quiet", "--bare", TEMPLATE, served, cwd=home, env=environment())
        python = find_python(home / "first")
        path = make_path(
            home / ".local" / "bin", cookiecutter=SCRIPTS / "cookiecutter", uv=SCRIPTS / "uv", python3=python
        )
        env = updates.user(home / "github", home, PATH=f"{path}:/usr/bin:/bin", PYENV_ROOT=str(home))
        terminal = Terminal(env, home)
        try:
            record(terminal, home)
            take_screenshots()
        finally:
            terminal.close()
    (DOCS / "recording.svg").write_text(svg(terminal.frames), encoding="utf-8")


if __name__ == "__main__":
    main()
