r"""Equations as MathML, made while the pages are built: a browser needs no script for them.

Docstrings write an equation as LaTeX between dollar signs, with Greek letters and operators as
Unicode so that `help()` reads well:

    $$
    Π ← Π - Δt ∂H/∂V ∇V            (Eq. 11)
    $$

Each line of such a block is a line of the display; lines are aligned at their first relation, and
a note in brackets at the end, "(Eq. 11)", goes to the right.
"""

import html
import re

from latex2mathml.converter import convert

__all__ = ["display", "inline", "render"]

COMMANDS = {
    "←": r"\leftarrow ",
    "→": r"\rightarrow ",
    "≤": r"\le ",
    "≥": r"\ge ",
    "≠": r"\neq ",
    "≈": r"\approx ",
    "∼": r"\sim ",
    "≪": r"\ll ",
    "∈": r"\in ",
    "∂": r"\partial ",
    "∇": r"\nabla ",
    "∑": r"\sum ",
    "∏": r"\prod ",
    "∫": r"\int ",
    "∞": r"\infty ",
    "∘": r"\circ ",
    "·": r"\cdot ",
    "√": r"\surd ",
    "⟨": r"\langle ",
    "⟩": r"\rangle ",
    "∧": r"\wedge ",
}
RELATION = re.compile(r"=|<=|\\le\b|←|≤|≥|≈|∼|→|∈|>|<")
NOTE = re.compile(r"\s{2,}\(([^()]*)\)$")
SPAN = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def _latex(text: str) -> str:
    return "".join(COMMANDS.get(letter, letter) for letter in text)


def _mathml(latex: str, display: str) -> str:
    made = convert(_latex(latex), display=display)
    # A bar |x| in the text is a fence on either side: no space around it.
    return made.replace('<mo stretchy="false">&#x0007C;</mo>', "<mi>|</mi>")


def inline(latex: str) -> str:
    """An equation inside a line."""
    return _mathml(latex, "inline")


def display(latex: str) -> str:
    """An equation, or several lines of them, on its own."""
    lines = [line.strip() for line in latex.strip().splitlines() if line.strip()]
    if any("\\begin" in line or "\\qquad" in line for line in lines):
        return f'<div class="equation">{_mathml(" ".join(lines), "block")}</div>'
    rows = []
    for line in lines:
        note = NOTE.search(line)
        body = line[: note.start()] if note else line
        left, right = _aligned(body, single=len(lines) == 1)
        label = f'<td class="note">({html.escape(note[1])})</td>' if note else ""
        cells = (inline(rf"\displaystyle {part}") if part else "" for part in (left, right))
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + label + "</tr>")
    return f'<div class="equation"><table>{"".join(rows)}</table></div>'


def _aligned(body: str, single: bool) -> tuple[str, str]:
    """A line, cut before its first relation."""
    if single:
        return "", body
    depth = 0
    for place, letter in enumerate(body):
        depth += letter in "({["
        depth -= letter in ")}]"
        if depth == 0 and RELATION.match(body, place):
            return body[:place].strip(), body[place:].strip()
    return "", body


def render(page: str) -> str:
    """A page whose equations are marked by arithmatex, with MathML in their place."""

    def replace(match: re.Match) -> str:
        latex = html.unescape(match[2])
        return display(latex) if match[1] == "div" else inline(latex)

    return SPAN.sub(replace, page)
