#!/usr/bin/env bash
# Photographs from nothing: a Con-D with random batches, then stage 1 with MAFA on top of it, both below OUTPUT: on
# Flickr8k (below LAVIS_MAFA_DATA), or on your own images, where options name them (docs/guides/own-images.md).
#   bash run_scripts/mafa/pretrain_blip2_images.sh output/mafa/flickr8k
#   bash run_scripts/mafa/pretrain_blip2_images.sh output/mine datasets.image_text.images=/data/mine …
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
source "$here/smoke.sh"
if (($# == 0)); then
    echo "usage: bash run_scripts/mafa/pretrain_blip2_images.sh OUTPUT [KEY=VALUE…]" >&2
    exit 2
fi
output="$1" yaml=projects/mafa/blip2 data=flickr8k
shift
case " $* " in *" datasets.image_text.images="*) data=images ;; esac
bash "$here/train_con_d.sh" --cfg-path $yaml/train_con_d_$data.yaml \
    --options "run.output_dir=$output/con_d" "run.token_folder=$output/tokens" "$@" "${smoke[@]}"
bash "$here/pretrain_blip2.sh" --cfg-path $yaml/pretrain_stage1_$data.yaml \
    --options "run.output_dir=$output/stage1" "run.token_folder=$output/tokens" "run.con_d.finetuned=$output/con_d/model.safetensors" "$@" "${smoke[@]}"
