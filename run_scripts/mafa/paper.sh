#!/usr/bin/env bash
# The paper's tables and figures in miniature (projects/mafa/paper), on scenes, and on Flickr8k where LAVIS_MAFA_DATA is set: says
# what it will run and how long, runs it (hours for all; a start goes on where the last one stopped), and writes tables,
# plots and their README.
#   bash run_scripts/mafa/paper.sh table1 figure2 --seeds 5
#   bash run_scripts/mafa/paper.sh all --plan
# A finished run keeps its row, projects/mafa/paper/rows.jsonl, until RESULTS in projects/mafa/paper/keys.py is raised.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../setup.sh"
exec env PYTHONWARNINGS="${PYTHONWARNINGS:-ignore}" "$PYTHON_BIN" "$LAVIS_MAFA_ROOT"/projects/mafa/paper/paper.py "$@"
