"""Reads the project's Markdown documents, for tests that compare them with the tree."""

import re
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
_LINK = re.compile(r"\[[^]]+\]\(([^)\s]+)\)")
_FENCED = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
_CODE = re.compile(r"`[^`\n]+`")


def documents() -> list[str]:
    """Paths of the documents, below the repository."""
    folders = (".", "docs", "hooks", "packaging", "tests/bench", "vm-tests")
    found = (path for folder in folders for path in (REPOSITORY / folder).glob("*.md"))
    return sorted(str(path.relative_to(REPOSITORY)) for path in found)


def read(document: str) -> str:
    """Return the text of a document."""
    return (REPOSITORY / document).read_text()


def section(text: str, heading: str) -> str:
    """Return what stands between *heading* and the next one."""
    return _FENCED.sub("", text).split(f"# {heading}\n", 1)[1].split("\n#", 1)[0]


def rows(text: str, heading: str) -> list[list[str]]:
    """Return the cells of the first table after *heading*, without its head."""
    lines = section(text, heading).splitlines()
    first = next(n for n, line in enumerate(lines) if line.startswith("|"))
    table = []
    for line in lines[first + 2 :]:
        if not line.startswith("|"):
            break
        cells = re.split(r"(?<!\\)\|", line.strip().strip("|"))
        table.append([cell.strip().strip("`") for cell in cells])
    return table


def links(text: str) -> list[str]:
    """Return where the links of a document lead."""
    return _LINK.findall(_CODE.sub("code", _FENCED.sub("", text)))


def anchors(text: str) -> Iterator[str]:
    """Yield the anchors of a document's headings, as GitHub makes them."""
    for heading in re.findall(r"^#+ (.+)$", _FENCED.sub("", text), re.MULTILINE):
        plain = re.sub(r"[^\w\- ]", "", heading.lower())
        yield plain.replace(" ", "-")
