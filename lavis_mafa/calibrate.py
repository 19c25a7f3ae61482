"""`python -m lavis_mafa.calibrate --cfg-path X.yaml`: make the scores of a config's judge probabilities."""

from __future__ import annotations

from lavis_mafa.common.errors import one_line_errors
from lavis_mafa.common.threads import wait_passively


def main() -> None:
    wait_passively()
    with one_line_errors():
        from lavis_mafa.mining_job.calibrate import main as calibrate

        calibrate()


if __name__ == "__main__":
    main()
