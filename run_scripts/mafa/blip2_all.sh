#!/usr/bin/env bash
# BLIP-2 from end to end on the embedded scenes: stage 1 with MAFA (or a given checkpoint of it), stage 2 before a tiny language
# model that never saw an image, and its zero-shot evaluation, with three baselines beside it.
#   bash run_scripts/mafa/blip2_all.sh [STAGE_1_CHECKPOINT] [LANGUAGE_MODEL: opt or t5]
# LAVIS_MAFA_OUT: the folder for everything, default output/mafa/blip2_all.
source "$(dirname "${BASH_SOURCE[0]}")/evaluate.sh"
stage1="${1:-}" llm="${2:-opt}" out="${LAVIS_MAFA_OUT:-output/mafa/blip2_all}"
if [[ "$llm" != opt && "$llm" != t5 ]]; then
    echo "usage: bash run_scripts/mafa/blip2_all.sh [STAGE_1_CHECKPOINT] [opt or t5]" >&2
    exit 2
fi
if [[ -z "$stage1" ]]; then
    bash "$LAVIS_MAFA_ROOT"/run_scripts/mafa/pretrain_blip2.sh --options "run.output_dir=$out/stage1" "${smoke[@]}"
    stage1="$out/stage1/model.safetensors"
else
    out="$out/from_$(cksum <"$stage1" | cut -d' ' -f1)" # another checkpoint is another run, which must not go on with this one's
fi
there="$(written "$out")"
bash "$LAVIS_MAFA_ROOT"/run_scripts/mafa/pretrain_blip2_stage2.sh --cfg-path "projects/mafa/blip2/pretrain_stage2_${llm}_scenes.yaml" \
    --options "run.output_dir=$out/stage2_$llm" "model.pretrained=$stage1" "${smoke[@]}"
names=(gqa_scenes okvqa_scenes caption_scenes)
for name in "${names[@]}"; do
    evaluate "projects/mafa/eval/$name.yaml" "$out/stage2_$llm/model.safetensors" \
        "model.arch=mafa_blip2_$llm" "run.output_dir=$out/eval_$llm/$name"
    evaluate "projects/mafa/eval/$name.yaml" "" "model.load_pretrained=false" "run.without_image=false" \
        "model.arch=mafa_blip2_$llm" "run.output_dir=$out/untrained_$llm/$name"
done
"$PYTHON_BIN" -m lavis_mafa.evaluation.compare "${names[@]/#/$there/eval_$llm/}" --untrained "${names[@]/#/$there/untrained_$llm/}" \
    --out "$there/zero_shot_$llm.csv"
