"""`python -m lavis_mafa.openclip.train`: the training script of open_clip, with the losses of `lavis_mafa.openclip`."""

import sys

from lavis_mafa.openclip_train.launcher import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
