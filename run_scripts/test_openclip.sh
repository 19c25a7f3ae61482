#!/usr/bin/env bash
# Run the tests that need no LAVIS in an environment without it, .venv-openclip: today's open_clip, timm and NumPy 2.
#   bash run_scripts/test_openclip.sh
#   bash run_scripts/test_openclip.sh tests/openclip -k bi_encoder
#
# It is built beside .venv. Where .venv has the same torch, its files are linked: torch with CUDA is a download of 3 GB.
set -euo pipefail

LAVIS_MAFA_EXTRAS="${LAVIS_MAFA_EXTRAS:-lavis,cpu},dev"
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
cd "$LAVIS_MAFA_ROOT"

VENV=.venv-openclip CONSTRAINTS=constraints/openclip.txt
STAMP="$VENV/lavis_mafa.stamp"

link_torch() { # hard links of the packages around torch whose version the constraints name too
    "$VENV/bin/python" - "$("$PYTHON_BIN" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" "$CONSTRAINTS" <<'PYTHON'
import os, re, sys, sysconfig
from importlib.metadata import distributions
from pathlib import Path

source, target = Path(sys.argv[1]), Path(sysconfig.get_path("purelib"))
wanted = {line.lower().replace("_", "-") for line in Path(sys.argv[2]).read_text().split()}
for package in distributions(path=[str(source)]):
    name = package.metadata["Name"].lower().replace("_", "-")
    if not re.fullmatch(r"torch|torchvision|triton|(nvidia|cuda)-.*", name) or f"{name}=={package.version}" not in wanted:
        continue
    for file in package.files or ():
        if ".." in file.parts or not (source / file).exists() or (target / file).exists():
            continue
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        os.link(source / file, target / file)
PYTHON
}

build() {
    echo "lavis_mafa: building $VENV (1 minute plus the download)" >&2
    rm -rf "$VENV"
    "$PYTHON_BIN" -m venv "$VENV"
    link_torch || echo "lavis_mafa: no files of $PYTHON_BIN can be linked; downloading everything" >&2
    local tested=()
    if [[ "$("$PYTHON_BIN" -c 'import sys; print(sys.version_info[:2])')" == "(3, 11)" ]]; then tested=(-c "$CONSTRAINTS"); fi
    "$VENV/bin/python" -m pip install --progress-bar off -q -e ".[openclip,cpu,dev]" "${tested[@]}"
    stamp >"$STAMP"
}

stamp() { cat setup.py "$CONSTRAINTS" | sha256sum; }

[[ -f "$STAMP" && "$(<"$STAMP")" == "$(stamp)" ]] || build

export HF_HUB_OFFLINE=1 MPLBACKEND=Agg # tests fetch nothing and open no window
if (($#)); then exec "$VENV/bin/python" -m pytest "$@"; fi
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
exec "$VENV/bin/python" -m pytest -n 2 --dist loadfile --no-loadscope-reorder tests/core tests/data tests/mining tests/reports tests/openclip
