# The Python that the scripts run: finds it, or builds .venv in this checkout.
#
#   source run_scripts/setup.sh      in a script: sets PYTHON_BIN and LAVIS_MAFA_ROOT, ends the script where it cannot
#   bash run_scripts/setup.sh        by hand: sets up and prints the path of that Python
#
# LAVIS_MAFA_EXTRAS   extras to install, default "lavis,cpu" ("lavis,gpu": FAISS on the GPU)
# PYTHON              the interpreter to build .venv with, default: python3.11, python3.10, python3, python
#
# An active environment is used where its lavis_mafa is this checkout's. A .venv that is up to date carries a stamp, so
# that a second start costs milliseconds; one whose set-up was interrupted carries a mark instead, and is built anew.

LAVIS_MAFA_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
LAVIS_MAFA_VENV="$LAVIS_MAFA_ROOT/.venv"
LAVIS_MAFA_STAMP="$LAVIS_MAFA_VENV/lavis_mafa.stamp"
LAVIS_MAFA_UNFINISHED="$LAVIS_MAFA_VENV/lavis_mafa.unfinished"
LAVIS_MAFA_LOG="$LAVIS_MAFA_VENV/setup.log"

_say() { printf '%s\n' "$@" >&2; }

_fail() { # what is wrong, then the remedies, a line each
    _say "lavis_mafa: $1" "${@:2}"
    exit 1
}

# --- which Python ---------------------------------------------------------------------------------------------------

_version() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }

_base_python() { # the interpreter to build .venv with
    local candidate version found=""
    for candidate in ${PYTHON:-python3.11 python3.10 python3 python}; do
        version="$(_version "$candidate")" || continue
        case "$version" in
            3.10 | 3.11) command -v "$candidate" && return ;;
        esac
        found="$found $candidate is $version;"
    done
    _fail "Python 3.10 or 3.11 is needed (LAVIS' tokenizers has no wheel for a later one); found:${found:- none}" \
        "  Debian, Ubuntu:  apt install python3.11 python3.11-venv    (or python3.10 python3.10-venv)" \
        "  conda:           conda create -n py311 python=3.11 && conda activate py311" \
        "  elsewhere:       PYTHON=/path/to/python3.11 bash $0"
}

_require_venv_module() {
    local version
    "$1" -c 'import ensurepip, venv' 2>/dev/null && return
    version="$(_version "$1")"
    _fail "$1 lacks the venv module" "  Debian, Ubuntu:  apt install python$version-venv"
}

# --- what the machine must have -------------------------------------------------------------------------------------

_require_platform() {
    local platform
    platform="$(uname -s) $(uname -m)"
    [[ "$platform" == "Linux x86_64" ]] && return
    _fail "$platform is not supported: LAVIS needs decord, whose wheels are for Linux x86-64" \
        "  With Docker:  docker run --platform linux/amd64 -it -v \"\$PWD\":/lavis_mafa -w /lavis_mafa python:3.11 bash"
}

_require_disk() {
    local free_kb
    free_kb="$(df -Pk "$LAVIS_MAFA_ROOT" | awk 'NR == 2 { print $4 }')"
    ((free_kb >= 10 * 1024 * 1024)) && return
    _fail "10 GB of free disk space are needed, but $LAVIS_MAFA_ROOT has $((free_kb / 1024 / 1024)) GB" \
        "  Free some, or move the checkout to a larger disk; 'pip cache purge' often frees several GB."
}

# --- is there something ready? --------------------------------------------------------------------------------------

_active_python() { # the active environment's Python, if its lavis_mafa is this checkout's
    local python="${VIRTUAL_ENV:-${CONDA_PREFIX:-}}" lacking
    python="${python:+$python/bin/python}"
    python="${python:-$(command -v python || command -v python3)}" || return 1
    [[ "$python" != "$LAVIS_MAFA_VENV"/* ]] || return 1 # ours: the stamp tells more
    lacking="$("$python" -I - "$LAVIS_MAFA_ROOT" "$1" 2>/dev/null <<'PYTHON'
import sys
from importlib.util import find_spec
from pathlib import Path

root, extras = sys.argv[1], sys.argv[2].split(",")
spec = find_spec("lavis_mafa")
if spec is None or spec.origin is None or not Path(spec.origin).resolve().is_relative_to(Path(root).resolve()):
    sys.exit(1)
modules = {"lavis": "lavis", "cpu": "faiss", "gpu": "faiss", "openclip": "open_clip", "ray": "ray", "dev": "pytest"}
print(",".join(extra for extra in extras if extra in modules and find_spec(modules[extra]) is None))
PYTHON
)" || return 1
    [[ -z "$lacking" ]] || _fail "the active environment ($python) has this checkout, but lacks the extras $lacking" \
        "  $python -m pip install -e \"$LAVIS_MAFA_ROOT[$lacking]\"    or deactivate it to use .venv"
    printf '%s\n' "$python"
}

_stamp() { # what .venv was built from, less the extras
    (cd "$LAVIS_MAFA_ROOT" && cat setup.py constraints/*.txt && pwd) | sha256sum
}

_installed_extras() { [[ -f "$LAVIS_MAFA_STAMP" ]] && sed -n 2p "$LAVIS_MAFA_STAMP"; }

_missing_extras() { # those of $1 that are not in $2; FAISS' two builds exclude each other, the GPU's serves for both
    local extra missing=""
    for extra in ${1//,/ }; do
        [[ ",$2," == *",$extra,"* || ("$extra" == cpu && ",$2," == *,gpu,*) ]] || missing="$missing,$extra"
    done
    printf '%s' "${missing#,}"
}

_venv_is_ready() {
    [[ -x "$LAVIS_MAFA_VENV/bin/python" && -f "$LAVIS_MAFA_STAMP" && ! -e "$LAVIS_MAFA_UNFINISHED" ]] || return 1
    [[ "$(sed -n 1p "$LAVIS_MAFA_STAMP")" == "$(_stamp)" && -z "$(_missing_extras "$1" "$(_installed_extras)")" ]]
}

# --- building .venv -------------------------------------------------------------------------------------------------

_show_progress() { # every 10 s one line, while this script lives
    exec 9>&- # the lock is not ours to hold
    local start=$SECONDS
    while sleep 10 &>/dev/null && kill -0 $$ 2>/dev/null; do
        _say "  $(printf '%4d s  %5s  %.80s' $((SECONDS - start)) "$(du -sh "$LAVIS_MAFA_VENV" 2>/dev/null | cut -f1)" \
            "$(grep -vE '^WARNING|ninstall|Found existing' "$LAVIS_MAFA_LOG" 2>/dev/null | tail -n 1)")"
    done
}

_pip_install() { # extras, Python version
    local progress status=0
    _say "lavis_mafa: installing the extras $1 into .venv (up to 7 GB; 3 minutes on 2 cores, and the download)"
    _show_progress >/dev/null &
    progress=$!
    if [[ ",$1," == *,gpu,* ]]; then "$LAVIS_MAFA_VENV/bin/python" -m pip uninstall -y faiss-cpu >/dev/null 2>&1; fi
    PYTHONUNBUFFERED=1 PIP_DISABLE_PIP_VERSION_CHECK=1 "$LAVIS_MAFA_VENV/bin/python" -m pip install --progress-bar off \
        -e "$LAVIS_MAFA_ROOT[$1]" -c "$LAVIS_MAFA_ROOT/constraints/py${2/./}.txt" >"$LAVIS_MAFA_LOG" 2>&1 || status=$?
    kill "$progress" 2>/dev/null
    wait "$progress" 2>/dev/null
    ((status == 0)) && return
    grep -v '^WARNING' "$LAVIS_MAFA_LOG" | tail -n 15 >&2
    _fail "pip failed; the full log is $LAVIS_MAFA_LOG" \
        "  If the network failed, start again: what was downloaded is kept."
}

_discard_venv() { # renamed first: a half removed .venv must not pass for one
    rm -rf "$LAVIS_MAFA_VENV.removed"
    [[ ! -e "$LAVIS_MAFA_VENV" ]] || mv "$LAVIS_MAFA_VENV" "$LAVIS_MAFA_VENV.removed" || exit 1
    rm -rf "$LAVIS_MAFA_VENV.removed"
}

_new_venv() {
    local base
    base="$(_base_python)" || exit 1
    _require_venv_module "$base"
    _discard_venv
    _require_disk
    _say "lavis_mafa: building $LAVIS_MAFA_VENV with $base (Python $(_version "$base"))"
    mkdir "$LAVIS_MAFA_VENV" && : >"$LAVIS_MAFA_UNFINISHED" || exit 1
    "$base" -m venv "$LAVIS_MAFA_VENV" >&2 || _fail "$base could not build $LAVIS_MAFA_VENV"
}

_prepare_venv() { # leaves a .venv with a supported Python, marked as unfinished
    local version
    version="$(_version "$LAVIS_MAFA_VENV/bin/python")"
    if [[ -e "$LAVIS_MAFA_UNFINISHED" || ! -e "$LAVIS_MAFA_VENV" ]]; then
        _new_venv
    elif [[ "$version" == 3.10 || "$version" == 3.11 ]]; then
        [[ -f "$LAVIS_MAFA_STAMP" ]] || _require_disk
        : >"$LAVIS_MAFA_UNFINISHED"
    elif [[ -f "$LAVIS_MAFA_STAMP" ]]; then
        _new_venv # its interpreter has gone since
    else
        _fail "$LAVIS_MAFA_VENV was not built by this script: its Python is ${version:-not executable}, not 3.10 or 3.11" \
            "  Remove it, and the next start builds a new one."
    fi
}

_build_venv() { # extras; under the lock
    local extras missing
    _require_platform
    _prepare_venv
    extras="$(_installed_extras)"
    missing="$(_missing_extras "$1" "$extras")"
    extras="$extras${extras:+${missing:+,}}$missing"
    if [[ ",$extras," == *,gpu,* ]]; then extras="$(tr , '\n' <<<"$extras" | grep -vx cpu | paste -sd,)"; fi
    _pip_install "$extras" "$(_version "$LAVIS_MAFA_VENV/bin/python")"
    { _stamp && printf '%s\n' "$extras"; } >"$LAVIS_MAFA_STAMP"
    rm "$LAVIS_MAFA_UNFINISHED"
    _say "lavis_mafa: .venv is ready"
}

_python_bin() ( # extras; a subshell, so that the lock ends with it
    set +eu
    _active_python "$1" && exit
    if ! _venv_is_ready "$1"; then
        exec 9>"$LAVIS_MAFA_ROOT/.setup.lock" || exit 1
        flock -n 9 || { _say "lavis_mafa: another process is setting up .venv; waiting for it" && flock 9; }
        _venv_is_ready "$1" || _build_venv "$1" || exit 1
    fi
    printf '%s\n' "$LAVIS_MAFA_VENV/bin/python"
)

PYTHON_BIN="$(_python_bin "${LAVIS_MAFA_EXTRAS:-lavis,cpu}")" || exit 1

if [[ -z "${LAVIS_MAFA_DATA:-}" && -d "$LAVIS_MAFA_ROOT/../shared/data" ]]; then
    LAVIS_MAFA_DATA="$(cd "$LAVIS_MAFA_ROOT/../shared/data" && pwd)"
    export LAVIS_MAFA_DATA
fi
export TOKENIZERS_PARALLELISM="${TOKENIZERS_PARALLELISM:-false}" # forked loader workers would warn at every start

# By default glibc gives large buffers back to the kernel at once, and takes them anew, page by page, in the next step: that was half of
# a convolutional tower's time on a CPU and a third of the language head's.
export MALLOC_MMAP_THRESHOLD_="${MALLOC_MMAP_THRESHOLD_:-1073741824}" MALLOC_TRIM_THRESHOLD_="${MALLOC_TRIM_THRESHOLD_:-4294967296}"

if [[ "${BASH_SOURCE[0]}" == "$0" ]]; then printf '%s\n' "$PYTHON_BIN"; fi
