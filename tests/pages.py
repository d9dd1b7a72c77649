"""The pages of the documentation: what they show in their code blocks."""

import re
from dataclasses import dataclass
from pathlib import Path

from tests.chain import ROOT

# docs/results holds the commands of experiments, which take hours
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_FENCE = re.compile(r"^```(\S*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# ([\w.]+\.(?:py|yaml))\n")
_NEED = re.compile(r"\s+# needs (.+)$")


@dataclass(frozen=True)
class Command:
    """A line that a reader is to type.

    Attributes:
        line: The line without its comment.
        need: What the tests lack to run it, "" where they run it; on the page ``# needs ...`` at the end of the line.
    """

    line: str
    need: str = ""


def blocks(page: Path, language: str = "") -> list[str]:
    """Return the code blocks of one language; those without one hold commands and nothing else."""
    return [text for own, text in _FENCE.findall(page.read_text()) if own == language]


def commands(page: Path) -> list[Command]:
    """Return the commands of a page in their order."""
    found = []
    for text in blocks(page):
        for line in text.replace("\\\n", " ").splitlines():
            need = _NEED.search(line)
            # what follows a command after two blanks and a # is said to the reader
            bare = re.sub(r"\s+# .*$", "", line).strip()
            if bare:
                found.append(Command(" ".join(bare.split()), need.group(1) if need else ""))
    return found


def shown_files(page: Path) -> dict[str, str]:
    """Return the files that a page shows whole, by the name in their first line."""
    files = {}
    for language in ("python", "yaml"):
        for text in blocks(page, language):
            if name := _FILE.match(text):
                files[name.group(1)] = text
    return files
