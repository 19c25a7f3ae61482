#!/usr/bin/env bash
# Run the tests: all of them, the quick ones of the core first, or what the arguments say (pytest's own).
#   bash run_scripts/test.sh
#   bash run_scripts/test.sh tests/core -k chain
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

if ! "$PYTHON_BIN" -c 'import pytest, xdist, hypothesis' 2>/dev/null; then
    echo "lavis_mafa: $PYTHON_BIN lacks the extra dev: pip install -e \"$LAVIS_MAFA_ROOT[dev]\"" >&2
    exit 1
fi
export HF_HUB_OFFLINE=1 MPLBACKEND=Agg # tests fetch nothing and open no window
if (($#)); then exec "$PYTHON_BIN" -m pytest "$@"; fi

cd "$LAVIS_MAFA_ROOT"
shopt -s nullglob
paths=(tests/core)
for path in tests/test_*.py tests/*/; do
    case "$path" in
        tests/core/ | tests/jobs/ | *__pycache__/) ;;
        *) paths+=("$path") ;;
    esac
done
if [[ -d tests/jobs ]]; then paths+=(tests/jobs); fi # whole commands: the slowest last
# Two files at a time, in this order; a thread each, as more would wait for each other on two cores.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
exec "$PYTHON_BIN" -m pytest -n 2 --dist loadfile --no-loadscope-reorder "${paths[@]}"
