# Sourced by the scripts beside it: takes `--smoke FOLDER` out of their arguments, wherever it stands, into the array `smoke`, which they
# pass on to lavis_mafa: short runs, and below FOLDER what would go below output/ (lavis_mafa/config/smoke.py).
smoke=() kept=()
while (($# > 0)); do
    if [[ "$1" == --smoke ]]; then
        smoke=(--smoke "${2:?--smoke takes a folder}")
        shift 2
    else
        kept+=("$1")
        shift
    fi
done
set -- "${kept[@]}"
