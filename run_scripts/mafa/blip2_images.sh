#!/usr/bin/env bash
# BLIP-2 from end to end on photographs, all below OUTPUT: stage 1 with MAFA on Flickr8k (or a given checkpoint of it), a small language
# model from text alone, stage 2, then captions of Flickr8k and questions of DAQUAR, with three baselines beside them. The data lies
# below LAVIS_MAFA_DATA.
#   bash run_scripts/mafa/blip2_images.sh output/mafa/blip2_images [STAGE_1_CHECKPOINT]
source "$(dirname "${BASH_SOURCE[0]}")/evaluate.sh"
if (($# < 1 || $# > 2)); then
    echo "usage: bash run_scripts/mafa/blip2_images.sh OUTPUT [STAGE_1_CHECKPOINT]" >&2
    exit 2
fi
out="$1" stage1="${2:-}"
if [[ -z "$stage1" ]]; then
    bash "$LAVIS_MAFA_ROOT"/run_scripts/mafa/pretrain_blip2_images.sh "$out" "${smoke[@]}"
    stage1="$out/stage1/model.safetensors"
fi
there="$(written "$out")"
if [[ ! -e "$there/opt/model.safetensors" ]]; then
    "$PYTHON_BIN" "$LAVIS_MAFA_ROOT"/projects/language_models/flickr8k.py --out "$there/opt" ${smoke:+--steps 20}
fi
bash "$LAVIS_MAFA_ROOT"/run_scripts/mafa/pretrain_blip2_stage2.sh --cfg-path projects/mafa/blip2/pretrain_stage2_flickr8k.yaml \
    --options "run.output_dir=$out/stage2" "run.token_folder=$out/tokens" "model.opt_model=$out/opt" "model.pretrained=$stage1" "${smoke[@]}"
names=(caption_flickr8k daquar)
for name in "${names[@]}"; do
    evaluate "projects/mafa/eval/$name.yaml" "$out/stage2/model.safetensors" \
        "model.opt_model=$out/opt" "run.output_dir=$out/eval/$name"
    evaluate "projects/mafa/eval/$name.yaml" "" "model.load_pretrained=false" "run.without_image=false" \
        "model.opt_model=$out/opt" "run.output_dir=$out/untrained/$name"
done
"$PYTHON_BIN" -m lavis_mafa.evaluation.compare "${names[@]/#/$there/eval/}" --untrained "${names[@]/#/$there/untrained/}" \
    --out "$there/answers.csv"
