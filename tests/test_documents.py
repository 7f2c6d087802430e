# SPDX-License-Identifier: Apache-2.0
"""The documents: their links lead somewhere, every page can be reached from README, figures are those of their text."""

import hashlib
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / name
    for name in subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split()
    if (ROOT / name).exists()
]  # fmt: skip
LINK = re.compile(r"(?<!`)\[[^\]\n]+\]\(([^)\s]+)\)")
EXTERNAL = re.compile(r"[a-z]+:")


def text_of(page: Path) -> str:
    """Return the page without its blocks of code, where brackets are no links."""
    return re.sub(r"(?ms)^```.*?^```$", "", page.read_text(encoding="utf-8"))


def links(page: Path) -> list[str]:
    """Return the targets of the page's links to files of this tree."""
    return [target for target in LINK.findall(text_of(page)) if not EXTERNAL.match(target)]


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and GitLab make them."""
    headings = re.findall(r"(?m)^#+ (.+)$", text_of(page))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in links(page):
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), f"{target} does not exist"
        assert not anchor or anchor in anchors(file), f"{target}: no such heading"


def test_every_page_can_be_reached_from_readme() -> None:
    reached, new = set[Path](), {ROOT / "README.md"}
    while new:
        reached |= new
        targets = ((page.parent / link.partition("#")[0]).resolve() for page in new for link in links(page))
        new = {target for target in targets if target.suffix == ".md"} - reached
    assert set(PAGES) - reached == set()


def test_figures_are_up_to_date() -> None:
    folder = ROOT / "docs/figures"
    sources = sorted((*folder.glob("*.dot"), *folder.glob("*.txt")))
    assert len(sources) > 7
    used = {(page.parent / target).resolve() for page in PAGES for target in links(page)}
    for source in sources:
        figure = source.with_suffix(".svg")
        digest = hashlib.sha256(source.read_bytes()).hexdigest()[:16]
        assert f"<!-- {source.name} {digest} -->" in figure.read_text(encoding="utf-8"), f"{figure}: run `make figures`"
        assert "prefers-color-scheme: dark" in figure.read_text(encoding="utf-8")
        assert figure in used, f"{figure} is on no page"
