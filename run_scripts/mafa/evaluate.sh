# Sourced by the scripts beside it: `evaluate YAML CHECKPOINT [KEY=VALUE…]` runs lavis_mafa.evaluate, under torchrun where there are
# several GPUs. CHECKPOINT `published` takes the weights that the YAML names.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../setup.sh"
source "$(dirname "${BASH_SOURCE[0]}")/smoke.sh"
cd "$LAVIS_MAFA_ROOT"

# `written FOLDER`: where a run with this output_dir writes; --smoke moves what lies below output/.
written() {
    case "$1" in
        output/*) echo "${smoke[1]:+${smoke[1]}/}$1" ;;
        *) echo "$1" ;;
    esac
}

evaluate() {
    local config="$1" checkpoint="$2" key gpus
    shift 2
    if [[ "$checkpoint" != published ]]; then
        key="$(grep -q 'load_finetuned: true\|model_type: coco' "$config" && echo finetuned || echo pretrained)"
        set -- "model.$key=$checkpoint" "$@"
    fi
    gpus="$(nvidia-smi -L 2>/dev/null | grep -c '^GPU' || true)"
    if ((gpus > 1)); then
        "$PYTHON_BIN" -m torch.distributed.run --standalone --nproc-per-node "$gpus" -m lavis_mafa.evaluate --cfg-path "$config" --options run.evaluate=true "$@" "${smoke[@]}"
    else
        "$PYTHON_BIN" -m lavis_mafa.evaluate --cfg-path "$config" --options run.evaluate=true "$@" "${smoke[@]}"
    fi
}

# `evaluate_one NAME "$@"`: NAME.yaml, or NAME_MODEL.yaml where the second argument is the language model's name.
evaluate_one() {
    local name="$1" default="$2"
    shift 2
    if (($# == 0)); then
        echo "usage: bash run_scripts/mafa/eval_$name.sh CHECKPOINT [MODEL: scenes, opt2.7b, flant5xl] [KEY=VALUE…]" >&2
        exit 2
    fi
    local checkpoint="$1" model="$default"
    shift
    if (($# > 0)) && [[ "$1" != *=* ]]; then
        model="$1"
        shift
    fi
    evaluate "projects/mafa/eval/$name${model:+_$model}.yaml" "$checkpoint" "$@"
}
