"""`python -m lavis_mafa.mine --cfg-path X.yaml --options a.b=c`: the missing connections of any data set."""

from __future__ import annotations

from lavis_mafa.common.errors import one_line_errors
from lavis_mafa.common.threads import wait_passively


def main() -> None:
    wait_passively()
    with one_line_errors():
        from lavis_mafa.mining_job.job import main as mine

        mine()


if __name__ == "__main__":
    main()
