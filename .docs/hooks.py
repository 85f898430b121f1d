"""What the pages get while they are built: equations, figures from the rows, a font, pictures."""

import importlib.metadata
import sys
from pathlib import Path

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

FONT = "ziamath/fonts/STIXTwoMath-Regular.ttf"
HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import content  # noqa: E402
import mathml  # noqa: E402


def on_files(files, config):
    """The mathematical font comes from an installed package, the pictures from the results."""
    font = importlib.metadata.distribution("ziamath").locate_file(FONT)
    files.append(File.generated(config, "assets/math.ttf", content=Path(font).read_bytes()))
    for picture in sorted((HERE.parent / "benchmarks" / "results").glob("*.png")):
        path = f"results/{picture.name}"
        files.append(File.generated(config, path, content=picture.read_bytes()))
    return files


def on_page_markdown(markdown, page, config, files):
    """Fills in what is kept elsewhere: {{ name }} is a function of `content`."""
    page.meta["search"] = {"boost": content.importance(page.file.src_uri)}
    return content.link_names(content.fill(markdown))


def on_page_content(html, page, config, files):
    """Renders the equations."""
    return mathml.render(html)


def on_post_build(config):
    """A page that loads something from elsewhere, or names what it cannot find, fails the build."""
    for path in sorted(Path(config.site_dir).rglob("*.*")):
        text = path.read_text(encoding="utf-8") if path.suffix in (".html", ".css") else ""
        if wrong := content.faults(text):
            raise PluginError(f"{path.name} loads from elsewhere, or leads nowhere: {wrong}")
