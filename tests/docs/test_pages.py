"""What the pages point to is there, and the messages that they quote are those of the program."""

import ast
import re
from pathlib import Path

import pytest

from tests.docs.pages import PAGES
from tests.support.commands import ROOT

TROUBLESHOOTING = ROOT / "docs" / "troubleshooting.md"
SHORTEST_PART = 8  # fewer letters than that say nothing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_links_to_is_there(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text())
    inside = [link for link in links if not link.startswith(("https://", "#"))]
    assert [link for link in inside if not (page.parent / link.partition("#")[0]).exists()] == []


def test_each_page_can_be_found_from_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    assert [page.name for page in PAGES if page.parent == ROOT / "docs" and f"docs/{page.name}" not in readme] == []


def test_the_messages_that_are_explained_are_those_of_the_program() -> None:
    messages = re.findall(r"^\| `([^`]*)` \|", TROUBLESHOOTING.read_text(), re.MULTILINE)
    assert len(messages) > 50
    texts = [text for folder in ("runner", "gan") for path in (ROOT / folder).rglob("*.py") for text in _texts(path)]
    assert [message for message in messages if not _is_said(message, texts)] == []


def _is_said(message: str, texts: list[str]) -> bool:
    """True where one text has all fixed parts of a message, in their order."""
    parts = message.split("…")
    assert max(map(len, parts)) >= SHORTEST_PART, f"{message!r} has no fixed part that tells it from others"
    return any(re.search(".*".join(map(re.escape, parts)), text, re.DOTALL) for text in texts)


def _texts(path: Path) -> list[str]:
    """The texts of a file; what is filled in stands as `…`."""
    texts = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.JoinedStr):
            texts.append("".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            texts.append(node.value)
    return texts
