r"""Equations as MathML, made while the pages are built: a browser needs no script for them.

Docstrings write an equation so that `help()` reads well, between lines of two dollar signs:

    $$
    Pi <- Pi - dt dH/dV grad V      kick (Eq. 11)
    $$

Each line is a line of the display; several are aligned at their first relation, and what follows
after two spaces or more, but for a comma before them, is a note beside it. Greek letters and
functions go by their names, as above; `sqrt(...)`, `^(...)`, `_ij`, `sum_i`, `int`, `<=`, `<-` and
`~` mean what they look like. Text with a backslash in it is LaTeX and taken as such.
"""

import html
import re

from latex2mathml.converter import convert

__all__ = ["display", "inline", "render", "to_latex"]

GREEK = {
    **{name: rf"\{name}" for name in ("alpha", "beta", "delta", "epsilon", "eta", "theta")},
    **{name: rf"\{name}" for name in ("lambda", "mu", "nu", "pi", "rho", "sigma", "omega")},
    **{name: rf"\{name}" for name in ("Delta", "Theta", "Pi", "Omega", "Gamma", "Sigma")},
}
NAMED = {
    **{name: rf"\{name}" for name in ("log", "exp", "cos", "sin", "max", "min", "det")},
    **{name: rf"\{name}" for name in ("sum", "prod", "int")},
    "grad": r"\nabla",
    "o": r"\circ",
}
SYMBOLS = (
    ("<-", r"\leftarrow "),
    ("<=", r"\le "),
    (">=", r"\ge "),
    ("!=", r"\neq "),
    ("-+", r"\mp "),
    ("||", r"\,\Vert\,"),
    ("~", r"\sim "),
    ("·", r"\cdot "),
)
RELATION = re.compile(r"<-|<=|>=|=|~|>|<")
GAP = re.compile(r",\s{2,}")  # between two equations on a line
NOTE = re.compile(r"(?<=[^\s,])\s{2,}(?!<-|=|~)(.*)$")
WORD = re.compile(r"d(?=Theta|Pi\b)|(?<![A-Za-z])\d+e-?\d+|[A-Za-z]+")
SPAN = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def to_latex(text: str) -> str:
    r"""An equation in plain notation as LaTeX.

    >>> print(to_latex("q = sqrt(E^2/V_I - V)^(n-2)"))
    q = \sqrt{E^2/V_{I} - V}^{n-2}
    """
    if "\\" in text:
        return text
    text = GAP.sub(",@", re.sub(r"\b2F1\b", "{}_2F_1", text.strip()))
    text = re.sub(r"(?<=[\w)}\]|']) (?=[\w(|\[{])", "#", text)  # a product: a thin space
    text = re.sub(r"<([^<>=-]*,[^<>=]*)>", r"⟨\1⟩", text)
    text = _braced(text, "sqrt", r"\sqrt")
    text = _braced(text, "^", "^")
    text = re.sub(r"_([A-Za-z]+)", _subscript, text)
    text = WORD.sub(_word, text)
    for sign, latex in SYMBOLS:
        text = text.replace(sign, latex)
    text = text.replace("⟨", r"\langle ").replace("⟩", r"\rangle ")
    return text.replace("#", r"\,").replace("@", r"\qquad ").replace("\x00", "")


def _braced(text: str, before: str, latex: str) -> str:
    """Turns the round brackets after `before` into braces."""
    while (start := text.find(before + "(")) >= 0:
        depth, end = 1, start + len(before) + 1
        while depth:
            depth += {"(": 1, ")": -1}.get(text[end], 0)
            end += 1
        inner = text[start + len(before) + 1 : end - 1]
        text = f"{text[:start]}{latex}{{{inner}}}{text[end:]}"
    return text


def _subscript(found: re.Match) -> str:
    letters = found[1]
    return f"_{{\x00\\mathrm{{{letters}}}}}" if len(letters) > 2 else f"_{{{letters}}}"


def _word(found: re.Match) -> str:
    word, text, start = found[0], found.string, found.start()
    if (start and text[start - 1] == "\\") or text[:start].endswith(r"\mathrm{"):
        return word
    if word[0].isdigit():
        digits, _, power = word.partition("e")
        return ("" if digits == "1" else digits + r"\cdot ") + f"10^{{{power}}}"
    if word in GREEK or word in NAMED:
        return (GREEK | NAMED)[word] + " "
    upright = len(word) > 2 or word == "KL"
    return rf"\mathrm{{{word}}}" if upright and not word.startswith("dVol") else word


def _mathml(text: str, style: str = "") -> str:
    made = convert(style + to_latex(text), display="inline")
    # A bar has the same space on either side.
    return made.replace('<mo stretchy="false">&#x0007C;</mo>', "<mi>|</mi>")


def inline(text: str) -> str:
    """An equation inside a line."""
    return _mathml(text)


def display(text: str) -> str:
    """An equation, or several lines of them, on its own."""
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    if "\\" in text:
        lines = [" ".join(lines)]
    rows = []
    for line in lines:
        note = NOTE.search(line)
        body = line[: note.start()] if note else line
        sides = _aligned(body) if len(lines) > 1 else ("", body)
        cells = (_mathml(side, r"\displaystyle ") if side else "" for side in sides)
        said = f"<span>{_text(note[1])}</span>" if note else "<span></span>"
        rows.append("".join(f"<div>{cell}</div>" for cell in cells) + said)
    return f'<div class="equation">{"".join(rows)}</div>'


def _text(note: str) -> str:
    """A note as HTML, its links left to the plugin that knows where they lead."""
    code = re.sub(r"`([^`]*)`", r"<code>\1</code>", html.escape(note))
    return re.sub(r"\[(.*?)\]\[([\w.]+)\]", r'<autoref identifier="\2">\1</autoref>', code)


def _aligned(body: str) -> tuple[str, str]:
    """A line, cut before its first relation outside of brackets."""
    depth = 0
    for place, letter in enumerate(body):
        depth += (letter in "({[") - (letter in ")}]")
        if depth == 0 and letter != "<" and RELATION.match(body, place):
            return body[:place].strip(), body[place:].strip()
        if depth == 0 and body.startswith(("<-", "<="), place):
            return body[:place].strip(), body[place:].strip()
    return ("", body) if body[0] in "+-" else (body, "")


def render(page: str) -> str:
    """A page whose equations are marked by arithmatex, with MathML in their place."""

    def replace(match: re.Match) -> str:
        text = html.unescape(match[2])
        return display(text) if match[1] == "div" else inline(text)

    return SPAN.sub(replace, page)
