"""What the tests of the documentation read: its pages, their blocks of code, and the commands in them."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.support.commands import ROOT

PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])

# A line of a block that begins with one of these is a command.
PROGRAMS = (
    *("python", "python3", ".venv/bin/python", "pix2pix-runner", "make", "pip", "pytest", "wandb", "ray", "prometheus"),
    *(
        "tensorboard",
        "source",
        "cd",
        "export",
        "git",
        "curl",
        "wget",
        "docker",
        "ssh",
        "tar",
        "unzip",
        "cp",
        "mv",
        "rm",
    ),
    *("mkdir", "sudo", "apt-get", "chmod", "sbatch", "scancel", "kubectl", "sky", "deploy/spot_loop.sh"),
)
_OTHER_LANGUAGES = ("python", "pycon", "yaml", "json", "text")


class Block(NamedTuple):
    """A block of code; the language of an indented one, or of a fence without a name, is empty."""

    language: str
    lines: list[str]


def blocks(page: Path) -> Iterator[Block]:
    """The fenced and the indented blocks of a page."""
    block: Block | None = None
    is_fenced = False
    for line in page.read_text().splitlines():
        if line.startswith("```"):
            if block is not None:
                yield block
            is_fenced = not is_fenced
            block = Block(line.removeprefix("```").strip(), []) if is_fenced else None
        elif is_fenced and block is not None:
            block.lines.append(line)
        elif line.startswith("    "):
            block = block or Block("", [])
            block.lines.append(line[4:])
        elif block is not None:
            yield block
            block = None
    if block is not None:
        yield block


def commands(page: Path) -> Iterator[str]:
    """The commands of a page's blocks, without the comments behind them."""
    for language, lines in blocks(page):
        if language in _OTHER_LANGUAGES:
            continue
        for line in lines:
            command = re.sub(r"(^|\s+)#\s.*$", "", line)
            is_command = command.split(" ")[0] in PROGRAMS
            # In a block of commands nothing else may stand: it would not be looked at.
            assert is_command or not command or not language, (
                f"{page.name}: {line!r} begins with no program in PROGRAMS"
            )
            if is_command:
                yield command


def inline_code(page: Path) -> Iterator[str]:
    """What stands between backticks in a page's sentences and tables."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    yield from re.findall(r"`([^`\n]+)`", text)
