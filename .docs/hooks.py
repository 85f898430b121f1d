"""What the pages get while they are built: equations, figures from the rows, the font for both."""

import importlib.util
import sys
from pathlib import Path

from mkdocs.structure.files import File

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import content  # noqa: E402
import mathml  # noqa: E402


def on_files(files, config):
    """The mathematical font comes from an installed package, the pictures from the results."""
    ziamath = importlib.util.find_spec("ziamath")
    assert ziamath is not None and ziamath.origin is not None, "pip install '.[docs]'"
    font = Path(ziamath.origin).parent / "fonts" / "STIXTwoMath-Regular.ttf"
    files.append(File.generated(config, "assets/math.ttf", content=font.read_bytes()))
    for picture in sorted((HERE.parent / "benchmarks" / "results").glob("*.png")):
        path = f"results/{picture.name}"
        files.append(File.generated(config, path, content=picture.read_bytes()))
    return files


def on_page_markdown(markdown, page, config, files):
    """Fills in what is kept elsewhere: {{ name }} is a function of `content`."""
    return content.fill(markdown)


def on_page_content(html, page, config, files):
    """Renders the equations."""
    return mathml.render(html)
