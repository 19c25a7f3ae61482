#!/usr/bin/env bash
# ALBEF from end to end on the embedded scenes: pre-training with MAFA, which ends with retrieval, then from its checkpoint
# questions (VQA), and, after the text assignment, statements about two images (NLVR2).
#   bash run_scripts/mafa/albef_all.sh
# LAVIS_MAFA_OUT: the folder for everything, default output/mafa/albef_all.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
source "$here/smoke.sh"
out="${LAVIS_MAFA_OUT:-output/mafa/albef_all}"
bash "$here/pretrain_albef.sh" --options "run.output_dir=$out/pretrain" "${smoke[@]}"
bash "$here/finetune_vqa.sh" --options "run.output_dir=$out/vqa" "model.pretrained=$out/pretrain/model.safetensors" "${smoke[@]}"
bash "$here/finetune_nlvr.sh" --cfg-path projects/mafa/albef/assign_text_scenes.yaml \
    --options "run.output_dir=$out/assign" "model.pretrained=$out/pretrain/model.safetensors" "${smoke[@]}"
bash "$here/finetune_nlvr.sh" --options "run.output_dir=$out/nlvr" "model.pretrained=$out/assign/model.safetensors" "${smoke[@]}"
