#!/usr/bin/env bash
# Make the locks from pyproject.toml, with uv. Pins stay as they are where the ranges allow it.
#   bash constraints/lock.sh                              after a change of pyproject.toml
#   bash constraints/lock.sh --upgrade                    everything as new as it comes
#   bash constraints/lock.sh --upgrade-package timm
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

TORCH=(torch==2.14.1 torchvision==0.29.1) # of one CUDA on every machine; raise both together

for python in 3.10 3.11 3.12 3.13; do
    lock="constraints/py${python/./}.txt"
    echo "$lock"
    printf '%s\n' "${TORCH[@]}" | uv pip compile --quiet pyproject.toml --extra lavis --extra cpu --extra dev --group lavis \
        --constraints - --universal --python-version "$python" --generate-hashes --no-annotate \
        --custom-compile-command "bash constraints/lock.sh" --output-file "$lock" "$@"
done
