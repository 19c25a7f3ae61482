"""Compare finished runs: `python -m lavis_mafa.compare OUT1 OUT2 … [--page FILE.html]`.

A folder holds results.json. Runs whose settings are equal are seeds of one setting; the setting of the first run is
the baseline. Differences are paired by seed, with 95 % intervals from two common seeds on. Where runs were
evaluated on a test set (`run.test_set`), it lists the conclusions of R@1 that this does not bear out.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from lavis_mafa.common.errors import one_line_errors
from lavis_mafa.common.stdout import print_anything, show
from lavis_mafa.reports.comparison import compared, read_run
from lavis_mafa.reports.flips import flips
from lavis_mafa.reports.pages import comparison_text, write_comparison


def main() -> None:
    print_anything()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="OUT", help="folders of finished runs")
    parser.add_argument("--page", type=Path, metavar="FILE.html", help="also write the comparison as a page")
    given = parser.parse_args()
    with one_line_errors():
        runs = [read_run(folder) for folder in given.folders]
        found = compared(runs)
        show("\n".join([comparison_text(found), *map(str, flips(runs))]))
        if given.page:
            write_comparison(given.page, found, given.folders)
            show(f"\nwritten: {given.page}")


if __name__ == "__main__":
    main()
