#!/usr/bin/env bash
# What one GPU says of mining, losses, planning and networks by size, on random weights: no LAVIS, network or data; under 8 minutes.
#   bash projects/benchmarks/gpu.sh
#   bash projects/benchmarks/gpu.sh --device cpu --tiny --json /tmp/gpu.json    on a CPU, to try the script
# PYTHON: an interpreter with torch, transformers and FAISS; default: the one of run_scripts/setup.sh.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
if [[ -z "${PYTHON:-}" ]]; then
    source run_scripts/setup.sh
    PYTHON="$PYTHON_BIN"
fi
case " $* " in *" --json "*) ;; *) set -- --json projects/benchmarks/gpu.json "$@" ;; esac
export HF_HUB_OFFLINE=1 PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
exec timeout 470 "$PYTHON" -W ignore projects/benchmarks/gpu.py "$@"
