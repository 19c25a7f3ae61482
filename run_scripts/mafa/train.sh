# Sourced by the scripts beside it: `train DEFAULT.yaml ARGUMENTS…` runs lavis_mafa.train, under torchrun where there are several GPUs.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../setup.sh"
cd "$LAVIS_MAFA_ROOT"

train() {
    local config="$1" gpus
    shift
    case " $* " in *" --cfg-path"*) ;; *) set -- --cfg-path "$config" "$@" ;; esac
    gpus="$(nvidia-smi -L 2>/dev/null | grep -c '^GPU' || true)"
    if ((gpus > 1)); then exec "$PYTHON_BIN" -m torch.distributed.run --standalone --nproc-per-node "$gpus" -m lavis_mafa.train "$@"; fi
    exec "$PYTHON_BIN" -m lavis_mafa.train "$@"
}
