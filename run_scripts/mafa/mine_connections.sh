#!/usr/bin/env bash
# Find the missing connections of an image-text data set, and show them. Without arguments: of the embedded scenes.
#   bash run_scripts/mafa/mine_connections.sh
#   bash run_scripts/mafa/mine_connections.sh --options run.range_max=10 run.output_dir=output/try
#   bash run_scripts/mafa/mine_connections.sh --engine ray
#
# --engine ray embeds, searches and scores on the Ray cluster that RAY_ADDRESS names, one worker for each GPU (or CPU) of it,
# else on two workers of this machine; the results are the local engine's. All nodes need the same files at the same paths.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../setup.sh"
case " $* " in *" --cfg-path"*) ;; *) set -- --cfg-path projects/mafa/mine/mine_scenes.yaml "$@" ;; esac
exec "$PYTHON_BIN" -m lavis_mafa.mine "$@"
