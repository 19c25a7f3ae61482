"""pyproject.toml has everything but this: a wheel holds the configs of runs, which a checkout has in projects/mafa."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

RUNS = Path("projects", "mafa")


class BuildWithRuns(build_py):
    """Copies projects/mafa/**/*.yaml into the package, where common/run_configs.py looks for them."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:  # a checkout has them
            return
        for path in RUNS.rglob("*.yaml"):
            target = Path(self.build_lib, "lavis_mafa", path)
            self.mkpath(str(target.parent))
            self.copy_file(str(path), str(target))


setup(cmdclass={"build_py": BuildWithRuns})
