"""The YAMLs of runs, projects/mafa/…: beside the package in a checkout, inside it in a wheel (setup.py copies them)."""

from __future__ import annotations

import argparse
import difflib
from pathlib import Path

from lavis_mafa.common.files import PACKAGE

FOLDER = Path("projects", "mafa")


def packaged_home() -> Path | None:
    """The folder that projects/mafa lies in; None where the package was installed without it."""
    return next((home for home in (PACKAGE, PACKAGE.parent) if (home / FOLDER).is_dir()), None)


def run_configs() -> list[str]:
    """Names that --cfg-path takes anywhere: projects/mafa/blip2/pretrain_stage1_scenes.yaml, …"""
    home = packaged_home()
    found = (home / FOLDER).rglob("*.yaml") if home else ()
    configs = (path.relative_to(home or PACKAGE) for path in found)
    return sorted(path.as_posix() for path in configs if "paper" not in path.parts)  # those are what its tables vary


def run_config(path: Path) -> Path:
    """The file at `path`, from where the user stands; else the packaged config of that name.

    Raises:
        ValueError: there is neither; names the closest packaged one.
    """
    given = path.expanduser()
    home = packaged_home()
    if given.is_file():
        return given
    if home and path.parts[:2] == FOLDER.parts and (home / path).is_file():
        return home / path
    near = difflib.get_close_matches(path.as_posix(), run_configs(), n=1, cutoff=0.0)
    meant = f"; did you mean {near[0]}? `lavis-mafa configs` lists them all" if near else ""
    raise ValueError(f"--cfg-path: no file at {path}{meant}")


def main() -> None:
    """Print the name of every packaged config, with what its first line says."""
    parser = argparse.ArgumentParser(description="List the configs of runs that --cfg-path may name, from any folder")
    parser.add_argument("--where", action="store_true", help="print the folder that they lie in, to copy one from")
    if parser.parse_args().where:
        print(packaged_home())
        return
    print("\n".join(f"{name}\n    {_first_line(run_config(Path(name)))}" for name in run_configs()))


def _first_line(path: Path) -> str:
    return path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
