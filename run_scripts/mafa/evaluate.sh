# Sourced by the scripts beside it: `evaluate YAML CHECKPOINT [KEY=VALUE…]` runs lavis_mafa.evaluate, under torchrun where there are
# several GPUs. CHECKPOINT `published` takes the weights that the YAML names.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../setup.sh"
source "$(dirname "${BASH_SOURCE[0]}")/smoke.sh"
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"

# `written FOLDER`: where a run with this output_dir writes; --smoke moves what lies below output/.
written() {
    case "$1" in
        output/*) echo "${smoke[1]:+${smoke[1]}/}$1" ;;
        *) echo "$1" ;;
    esac
}

evaluate() {
    local config="$LAVIS_MAFA_ROOT/$1" checkpoint="$2" key launch
    shift 2
    if [[ "$checkpoint" != published ]]; then
        key="$(grep -q 'load_finetuned: true\|model_type: coco' "$config" && echo finetuned || echo pretrained)"
        set -- "model.$key=$checkpoint" "$@"
    fi
    launcher lavis_mafa.evaluate "$@"
    "${launch[@]}" --cfg-path "$config" --options run.evaluate=true "$@" "${smoke[@]}"
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
