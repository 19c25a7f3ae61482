"""What mkdocs.yml adds to docs/: READMEs and other pages of the repository, and the reference of keys and of the API.

    mkdocs build --strict

A page keeps the links that it has on GitHub. One to another page of the site, or to a picture, is made to lead there;
one to anything else of the repository shows its text alone.
"""

from __future__ import annotations

import posixpath
import re
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(Path(__file__).parent))
import reference  # noqa: E402  a module of this folder

ADDED = {  # page of the site → file of the repository
    "guides/open_clip.md": "lavis_mafa/openclip/README.md",
    "evidence/runs.md": "projects/mafa/README.md",
    "evidence/answers.md": "projects/mafa/eval/README.md",
    "evidence/paper.md": "projects/mafa/paper/README.md",
    "evidence/benchmarks.md": "projects/benchmarks/README.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "security.md": "SECURITY.md",
}
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
NAMED = re.compile(r"^\[([^\]]+)\]: (\S+)$", flags=re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for page, source in ADDED.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    for page, text in reference.pages().items():
        files.append(File.generated(config, page, content=text))
    for picture in sorted({each for page in files.documentation_pages() for each in _pictures(page)}):
        files.append(File.generated(config, _of_site(picture), abs_src_path=str(ROOT / picture)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The page, its links made those of the site."""
    source = _of_repository(page.file.src_uri)
    inline = NAMED.sub("", markdown)
    for name, target in NAMED.findall(markdown):
        inline = re.sub(rf"\[([^\]]+)\]\[{re.escape(name)}\]", rf"[\1]({target})", inline)
        inline = re.sub(rf"(?<!\])\[{re.escape(name)}\](?![\[(])", f"[{name}]({target})", inline)
    here = posixpath.dirname(page.file.src_uri)
    return LINK.sub(lambda found: _link(found, source, here, files), inline)


def _link(found: re.Match[str], source: str, here: str, files: Files) -> str:
    mark, text, target = found.groups()
    path, _, anchor = target.partition("#")
    if "://" in target or not path:
        return found[0]
    page = _of_site(posixpath.normpath(posixpath.join(posixpath.dirname(source), path)))
    if files.get_file_from_path(page) is None:
        return text
    return f"{mark}[{text}]({posixpath.relpath(page, here or '.')}{'#' + anchor if anchor else ''})"


def _pictures(page: File) -> list[str]:
    """Pictures of the repository, outside docs/, that a page shows."""
    if page.abs_src_path is None:
        return []
    folder = posixpath.dirname(_of_repository(page.src_uri))
    shown = [found[3] for found in LINK.finditer(Path(page.abs_src_path).read_text("utf-8")) if found[1]]
    paths = [posixpath.normpath(posixpath.join(folder, path)) for path in shown if "://" not in path]
    return [path for path in paths if not path.startswith("docs/")]


def _of_site(path: str) -> str:
    """Where a file of the repository stands in the site."""
    for page, source in ADDED.items():
        if source == path:
            return page
    return path.removeprefix("docs/") if path.startswith("docs/") else f"repository/{path}"


def _of_repository(page: str) -> str:
    return ADDED.get(page, f"docs/{page}")
