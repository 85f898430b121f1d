"""Links in Markdown that lead nowhere: to a file that is not there, or a heading that is not."""

import pathlib
import re

LINK = re.compile(r"\]\(([^()\s]+)\)")
FENCED = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)


def anchors(markdown: str) -> set[str]:
    """The link targets that headings get, as GitHub names them."""
    headings = re.findall(r"^#+ (.*)$", FENCED.sub("", markdown), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def dead_links(markdown: str, folder: pathlib.Path) -> list[str]:
    """The targets of a text's links that lead nowhere; those into the web are not followed.

    Args:
        markdown: The text.
        folder: Where its file lies.
    """
    dead = []
    for target in LINK.findall(FENCED.sub("", markdown)):
        path, _, anchor = target.partition("#")
        if target.startswith(("https://", "http://")):
            continue
        there = folder / path
        if path and not there.exists():
            dead.append(target)
        elif anchor and (not path or there.suffix == ".md"):
            text = there.read_text(encoding="utf-8") if path else markdown
            dead += [target] * (anchor not in anchors(text))
    return dead
