"""README and docs: short enough to be read, links that lead somewhere, commands that exist, Python that runs.

The tests in tests/jobs/test_readme.py run the ```bash blocks; ```sh marks what is only shown.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from lavis_mafa.core.settings import MafaSettings

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]
PROSE = [
    *PAGES,
    *(ROOT / page for page in ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")),
    *(page for part in ("lavis_mafa", "projects") for page in sorted((ROOT / part).rglob("*.md"))),
]
MADE = {ROOT / "projects" / "mafa" / "paper" / "README.md"}  # by a script, of a template and of notes
LINES, COLUMNS = 150, 100
WORDS = r"\b(?:told|said|mended|handed|asks nobody)\b"  # for significant, logged, written, fixed, passed, …
READ = {".py", ".md", ".yaml", ".j2", ".sh", ".sbatch", ".ipynb"}  # what a user or a developer reads


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, languages: str) -> list[str]:
    return re.findall(rf"^```(?:{languages})\n(.*?)^```", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)


def headings(page: Path) -> set[str]:
    """Anchors, as GitHub makes them."""
    found = re.findall(r"^#+ (.*)", page.read_text("utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


def links(page: Path) -> list[str]:
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
    return re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"^\[[^\]]+\]: (\S+)", text, flags=re.MULTILINE)


def broken(page: Path) -> list[str]:
    lost = []
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if "://" in link:
            continue
        if not target.exists() or (anchor and anchor not in headings(target)):
            lost.append(link)
    return lost


def missing(block: str) -> list[str]:
    """Files and modules that a command names and that do not exist."""
    files = re.findall(r"\b(?:run_scripts|projects|lavis_mafa)/[\w./-]+\.(?:sh|py|yaml)\b", block)
    modules = re.findall(r"-m (lavis_mafa[\w.]*)", block)
    return [file for file in files if not (ROOT / file).is_file()] + [each for each in modules if not runs(each)]


def runs(module: str) -> bool:
    """Whether `python -m module` finds something to run."""
    spec = find_spec(module)
    return spec is not None and (spec.submodule_search_locations is None or find_spec(f"{module}.__main__") is not None)


def test_the_readme_is_short() -> None:
    lines = README.read_text("utf-8").splitlines()
    assert len(lines) <= LINES
    assert [line for line in lines if len(line) > COLUMNS] == []


def wide(page: Path) -> list[str]:
    """Lines of prose beyond 100 columns: no code, tables, headings, pictures or links of their own."""
    text = re.sub(r"^ *```.*?^ *```", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    return [each for each in text.splitlines() if len(each) > COLUMNS and not re.match(r"\s*(\||#|<|!?\[)", each)]


@pytest.mark.parametrize("page", [page for page in PROSE if page not in MADE], ids=name)
def test_prose_is_wrapped(page: Path) -> None:
    assert wide(page) == []


def test_a_wide_line_of_prose_is_seen(tmp_path: Path) -> None:
    page, line = tmp_path / "page.md", "word " * 21
    page.write_text(f"{line}\n\n- a\n  {line}\n\n| {line} |\n\n```sh\n{line}\n```\n")
    assert wide(page) == [line, f"  {line}"]


def test_words_of_the_house_style() -> None:
    """CONTRIBUTING.md has what to write in their place."""
    files = [file for part in ("lavis_mafa", "docs", "projects", "run_scripts") for file in (ROOT / part).rglob("*")]
    files += [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"]
    texts = {file: file.read_text("utf-8") for file in files if file.suffix in READ and file.is_file()}
    assert len(texts) > 200
    assert {
        name(file): found for file, text in texts.items() if (found := re.findall(WORDS, text, re.IGNORECASE))
    } == {}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    assert broken(page) == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_name_what_exists(page: Path) -> None:
    assert [each for block in blocks(page, "bash|sh") for each in missing(block)] == []


@pytest.mark.parametrize("page", PROSE, ids=name)
def test_shell_is_sound(page: Path) -> None:
    for block in blocks(page, "bash|sh"):
        done = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True)
        assert done.returncode == 0, f"{block}\n{done.stderr}"


@pytest.mark.parametrize(
    "block",
    [pytest.param(block, id=f"{name(page)}-{i}") for page in PAGES for i, block in enumerate(blocks(page, "python"))],
)
def test_python_runs(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(block, names)
    assert names.keys() - {"__builtins__"}, "a block that defines and imports nothing shows nothing"


def test_every_setting_of_the_method_is_described() -> None:
    described = set(re.findall(r"`(\w+)`", (ROOT / "docs" / "reference" / "settings.md").read_text("utf-8")))
    assert {field.name for field in fields(MafaSettings)} - described == set()


def test_the_defaults_of_the_method_are_those_of_the_settings() -> None:
    text = (ROOT / "docs" / "reference" / "settings.md").read_text("utf-8").partition("MafaSettings")[2]
    stated: dict[str, object] = {}
    for keys, values in re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| ([^|]+) \|", text.partition("\n## ")[0], re.MULTILINE):
        found = [yaml.safe_load(value.strip("` ")) for value in values.split(",")]
        stated |= dict(zip(re.findall(r"\w+", keys), found, strict=True))
    assert stated == {field.name: field.default for field in fields(MafaSettings)}


def test_a_lost_link_and_a_lost_command_are_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A title\n[a](page.md#a-title) [b](page.md#b) [c](gone.md) [d](https://example.org/)\n")
    assert broken(page) == ["page.md#b", "gone.md"]
    assert missing("bash run_scripts/test.sh && python -m lavis_mafa.gone projects/gone.yaml") == [
        "projects/gone.yaml",
        "lavis_mafa.gone",
    ]
    assert missing("python -m lavis_mafa.train; python -m lavis_mafa.core") == ["lavis_mafa.core"]
