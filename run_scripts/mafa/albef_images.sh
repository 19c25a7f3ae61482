#!/usr/bin/env bash
# A small ALBEF on photographs, all below OUTPUT: a Con-D with random batches and pre-training with MAFA on Flickr8k, which ends
# with retrieval, then questions of DAQUAR. The data lies below LAVIS_MAFA_DATA.
#   bash run_scripts/mafa/albef_images.sh output/mafa/albef_images
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
source "$here/smoke.sh"
if (($# != 1)); then
    echo "usage: bash run_scripts/mafa/albef_images.sh OUTPUT" >&2
    exit 2
fi
output="$1" yaml=projects/mafa/albef
bash "$here/train_con_d.sh" --cfg-path projects/mafa/blip2/train_con_d_flickr8k.yaml \
    --options "run.output_dir=$output/con_d" "run.token_folder=$output/tokens" "${smoke[@]}"
bash "$here/pretrain_albef.sh" --cfg-path $yaml/pretrain_flickr8k.yaml --options "run.output_dir=$output/pretrain" \
    "run.token_folder=$output/tokens" "run.con_d.finetuned=$output/con_d/model.safetensors" "${smoke[@]}"
bash "$here/finetune_vqa.sh" --cfg-path $yaml/vqa_daquar.yaml --options "run.output_dir=$output/vqa" \
    "model.pretrained=$output/pretrain/model.safetensors" "${smoke[@]}"
