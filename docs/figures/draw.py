# SPDX-License-Identifier: Apache-2.0
"""Draw the documents' figures for light and dark pages: each .dot beside this file, by graphviz, and each .txt.

A .dot becomes a diagram, a .txt (what a terminal showed) an image of its lines. `make figures` runs it. The digest of
the text is in the figure, so a test notices a figure that is out of date.
"""

import hashlib
import re
import subprocess
from html import escape
from pathlib import Path

FOLDER = Path(__file__).parent
STYLE = """<style>
text { fill: #1f2328; font-family: sans-serif }
.edge path { stroke: #57606a } .edge polygon { stroke: #57606a; fill: #57606a }
.node path, .node polygon, .node ellipse, .cluster polygon, .cluster path { stroke: #57606a; fill: none }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .edge path, .node path, .node polygon, .node ellipse, .cluster polygon, .cluster path { stroke: #9198a1 }
  .edge polygon { stroke: #9198a1; fill: #9198a1 }
}
</style>"""

TERMINAL = """<style>
text { font: 13px ui-monospace, monospace; fill: #1f2328 } .typed { font-weight: bold }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3 } }
</style>"""


def digest(text: bytes) -> str:
    """Return what a figure names of the text that it was drawn from."""
    return hashlib.sha256(text).hexdigest()[:16]


def draw(source: Path) -> str:
    """Return the SVG of a .dot file, without the colors and the background of graphviz."""
    drawn = subprocess.run(["dot", "-Tsvg", source], capture_output=True, text=True, check=True).stdout
    drawn = re.sub(r"<!--.*?-->\n?", "", drawn, flags=re.S)
    drawn = re.sub(r'<polygon fill="white" stroke="transparent"[^>]*/>\n', "", drawn)
    drawn = re.sub(r'<polygon fill="white" stroke="none"[^>]*/>\n', "", drawn)
    start = drawn.index("<svg")
    body = drawn.index(">", start) + 1
    return f"{drawn[start:body]}\n<!-- {source.name} {digest(source.read_bytes())} -->\n{STYLE}{drawn[body:]}"


def draw_terminal(source: Path) -> str:
    """Return the SVG of a terminal's lines; those that begin with # are what was typed."""
    lines = source.read_text(encoding="utf-8").splitlines()
    width, height = 7.9 * max(map(len, lines)) + 24, 18 * len(lines) + 20
    texts = [
        f'<text x="12" y="{24 + 18 * number}" xml:space="preserve"{_typed(line)}>{escape(line)}</text>'
        for number, line in enumerate(lines)
    ]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" width="{width:.0f}">'
    made = f"<!-- {source.name} {digest(source.read_bytes())} -->"
    return "\n".join([head, made, TERMINAL, *texts, "</svg>", ""])


def _typed(line: str) -> str:
    return ' class="typed"' if line.startswith("# ") else ""


if __name__ == "__main__":
    for one in sorted(FOLDER.glob("*.dot")):
        one.with_suffix(".svg").write_text(draw(one), encoding="utf-8")
    for one in sorted(FOLDER.glob("*.txt")):
        one.with_suffix(".svg").write_text(draw_terminal(one), encoding="utf-8")
