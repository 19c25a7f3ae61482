#!/usr/bin/env bash
# All zero-shot evaluations of a stage-2 checkpoint, with one table at the end. MODEL: scenes (embedded), opt2.7b or flant5xl.
#   bash run_scripts/mafa/eval_zeroshot.sh CHECKPOINT [MODEL] [KEY=VALUE…]          CHECKPOINT `published`: the weights that the YAMLs name
# LAVIS_MAFA_EVAL: the folder for the results, default output/mafa/eval.
source "$(dirname "${BASH_SOURCE[0]}")/evaluate.sh"
if (($# == 0)); then
    echo "usage: bash run_scripts/mafa/eval_zeroshot.sh CHECKPOINT [MODEL: scenes, opt2.7b, flant5xl] [KEY=VALUE…]" >&2
    exit 2
fi
checkpoint="$1" model=scenes folder="${LAVIS_MAFA_EVAL:-output/mafa/eval}"
shift
if (($# > 0)) && [[ "$1" != *=* ]]; then
    model="$1"
    shift
fi
case "$model" in
    scenes) names=(gqa_scenes okvqa_scenes caption_scenes) ;;
    *) names=("gqa_$model" "okvqa_$model" "vqav2_$model" "caption_coco_$model") ;;
esac
folders=()
for name in "${names[@]}"; do
    evaluate "projects/mafa/eval/$name.yaml" "$checkpoint" "run.output_dir=$folder/$name" "$@"
    folders+=("$(written "$folder/$name")")
done
"$PYTHON_BIN" -m lavis_mafa.answers.compare "${folders[@]}"
