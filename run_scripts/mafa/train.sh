# Sourced by the scripts beside it: `train DEFAULT.yaml ARGUMENTS…` runs lavis_mafa.train, under torchrun where there are several GPUs.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../setup.sh"
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"

train() {
    local config="$1" launch
    shift
    case " $* " in *" --cfg-path"*) ;; *) set -- --cfg-path "$config" "$@" ;; esac
    launcher lavis_mafa.train "$@"
    exec "${launch[@]}" "$@"
}
