"""`python -m lavis_mafa.openclip.train`: the training script of open_clip, with the losses of `lavis_mafa.openclip`."""

import sys

from lavis_mafa.common.errors import one_line_errors


def main() -> None:
    """open_clip's training with MAFA, with the arguments of the command line."""
    with one_line_errors():
        from lavis_mafa.openclip_train.launcher import main as launch

        sys.exit(launch(sys.argv[1:]))


if __name__ == "__main__":
    main()
