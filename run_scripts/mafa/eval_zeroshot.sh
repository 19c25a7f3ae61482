#!/usr/bin/env bash
# All zero-shot evaluations, with one table at the end: GQA, OK-VQA, VQAv2 and captions of COCO and nocaps by a stage-2 CHECKPOINT;
# retrieval on COCO and Flickr30k by STAGE1, for a stage-2 checkpoint has no text encoder and no matching head to retrieve with.
# Without STAGE1 there is no retrieval, and the script reports that. MODEL: scenes (embedded), opt2.7b or flant5xl.
#   bash run_scripts/mafa/eval_zeroshot.sh CHECKPOINT [MODEL] [STAGE1] [KEY=VALUE…]
# `published`, for either checkpoint: the weights that the YAMLs name; as CHECKPOINT it stands for STAGE1, too. The published figures
# of nocaps and of retrieval are of models fine-tuned on COCO, as the published weights are. Your CHECKPOINT describes nocaps straight
# from stage 2, as it does COCO, and your STAGE1 retrieves without fine-tuning, neither with a figure to compare with.
# LAVIS_MAFA_EVAL: the folder for the results, default output/mafa/eval. LAVIS_MAFA_NOCAPS: the captions of nocaps' validation split
# (file or address), without which it has no CIDEr.
source "$(dirname "${BASH_SOURCE[0]}")/evaluate.sh"
given=()
while (($# > 0)) && [[ "$1" != *=* ]]; do
    given+=("$1")
    shift
done
if ((${#given[@]} < 1 || ${#given[@]} > 3)); then
    echo "usage: bash run_scripts/mafa/eval_zeroshot.sh CHECKPOINT [MODEL: scenes, opt2.7b, flant5xl] [STAGE1] [KEY=VALUE…]" >&2
    exit 2
fi
checkpoint="${given[0]}" model="${given[1]:-scenes}" stage1="${given[2]:-}" folder="${LAVIS_MAFA_EVAL:-output/mafa/eval}"
[[ "$checkpoint" != published ]] || stage1="${stage1:-published}"
case "$model" in
    scenes) names=(gqa_scenes okvqa_scenes caption_scenes) of_stage1=(retrieval_scenes) ;;
    *) names=("gqa_$model" "okvqa_$model" "vqav2_$model" "caption_coco_$model" "nocaps_$model") of_stage1=(retrieval_coco retrieval_flickr) ;;
esac
folders=()

# evaluate_into YAML_NAME CHECKPOINT [KEY=VALUE…]
evaluate_into() {
    evaluate "projects/mafa/eval/$1.yaml" "$2" "run.output_dir=$folder/$1" "${@:3}"
    folders+=("$(written "$folder/$1")")
}

for name in "${names[@]}"; do
    straight=()
    if [[ "$name" == nocaps_* && "$checkpoint" != published ]]; then
        straight=("model.model_type=pretrain_$model" model.load_finetuned=false model.finetuned=null "model.pretrained=$checkpoint"
            datasets.nocaps.vis_processor.eval.image_size=224 run.expected=null)
    fi
    if [[ "$name" == nocaps_* && -n "${LAVIS_MAFA_NOCAPS:-}" ]]; then
        straight+=("run.references=$LAVIS_MAFA_NOCAPS")
    fi
    evaluate_into "$name" "$checkpoint" "${straight[@]}" "$@"
done
if [[ -n "$stage1" ]]; then
    rest=() # retrieval generates nothing
    for option in "$@"; do
        [[ "$option" =~ ^run\.(num_beams|max_len|min_len|length_penalty|without_image|prompt|lemmatise)= ]] || rest+=("$option")
    done
    for name in "${of_stage1[@]}"; do
        zero_shot=()
        if [[ "$stage1" != published && "$model" != scenes ]]; then
            zero_shot=(model.model_type=pretrain model.load_finetuned=false model.finetuned=null "model.pretrained=$stage1"
                datasets.image_text.vis_processor.eval.image_size=224 run.expected=null)
        fi
        evaluate_into "$name" "$stage1" "${zero_shot[@]}" "${rest[@]}"
    done
else
    echo "retrieval is skipped: it evaluates stage 1, whose checkpoint is the third argument" >&2
fi
"$PYTHON_BIN" -m lavis_mafa.evaluation.compare "${folders[@]}"
