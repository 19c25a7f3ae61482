# The Python of the scripts: an active environment that has this checkout, else .venv, which the first start builds.
#
#   source run_scripts/setup.sh      in a script: sets PYTHON_BIN and LAVIS_MAFA_ROOT, ends the script where it cannot
#   bash run_scripts/setup.sh        by hand: sets up and prints the path of that Python
#
# PYTHON   the interpreter to build .venv with; default: the newest of Python 3.13 to 3.10 that is found, or uv's
#
# .venv holds what constraints/ names for its Python. Its stamp says what it was built from: a second start costs
# milliseconds. While it is built, .venv.unfinished stands beside it: an interrupted set-up starts from scratch.

LAVIS_MAFA_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

_python_bin() ( # a subshell: the lock and the names below end with it
    set +eu
    cd "$LAVIS_MAFA_ROOT" || exit 1
    python="$PWD/.venv/bin/python" unfinished=.venv.unfinished stamp=.venv/lavis_mafa.built

    fail() { printf '%s\n' "lavis_mafa: $1" "${@:2}" >&2 && exit 1; } # what is wrong, then the remedies
    has() { command -v "$1" >/dev/null; }
    version() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }
    lock_for() { local number && number="$(version "$1")" && echo "constraints/py${number/./}.txt"; }
    built_from() { { pwd && cat pyproject.toml constraints/*.txt; } | cksum; }
    has_checkout() { # its lavis_mafa is the one that stands here
        local find='import importlib.util as util; print(util.find_spec("lavis_mafa").origin)'
        [[ "$("$1" -I -c "$find" 2>/dev/null)" -ef lavis_mafa/__init__.py ]]
    }
    fits() { [[ -x "$python" ]] && [[ -z "$PYTHON" || "$(version "$PYTHON")" == "$(version "$python")" ]]; }
    ready() { [[ ! -e $unfinished && -f $stamp && "$(<$stamp)" == "$(built_from)" ]] && fits; }

    no_python() {
        local here="  install Python 3.13"
        if has apt; then here="  sudo apt install python3-venv   (for Debian 12 and 13, Ubuntu 22.04 to 25.10)"; fi
        if has dnf; then here="  sudo dnf install python3.13"; elif has brew; then here="  brew install python@3.13"; fi
        fail "Python 3.10 to 3.13 is needed, but ${PYTHON:-python3} is $("${PYTHON:-python3}" -V 2>&1)" "$here" \
            "  or install uv, which brings a Python; or: conda create -y -n mafa python=3.13 && conda activate mafa" \
            "  Then start again; an interpreter that is not on PATH is named: PYTHON=/path/to/python3.13 bash $0"
    }
    base_python() { # the interpreter to build .venv with
        local candidates=(python3.13 python3.12 python3.11 python3.10 python3 python) candidate
        if [[ -n "$PYTHON" ]]; then candidates=("$PYTHON"); fi
        for candidate in "${candidates[@]}"; do
            if [[ -f "$(lock_for "$candidate")" ]]; then command -v "$candidate" && return; fi
        done
        if [[ -z "$PYTHON" ]] && has uv; then echo 3.13; else no_python; fi
    }
    new_venv() {
        local base && base="$(base_python)" || exit 1
        has uv || "$base" -c 'import ensurepip, venv' 2>/dev/null ||
            fail "$base lacks the venv module" "  Debian, Ubuntu: sudo apt install python$(version "$base")-venv"
        echo "lavis_mafa: building $PWD/.venv with $base (7 GB; 2 minutes on 2 cores, and the download)" >&2
        : >$unfinished && rm -rf .venv || exit 1
        if has uv; then uv venv --quiet --seed --python "$base" .venv >&2; else "$base" -m venv .venv >&2; fi || exit 1
    }
    build() { # the tested versions by their hashes, LAVIS among them, then this checkout
        local pip=("$python" -m pip install --disable-pip-version-check)
        if has uv; then pip=(uv pip install --python "$python"); fi
        if [[ -e $unfinished || ! -f $stamp ]] || ! fits; then new_venv; fi
        : >$unfinished
        "${pip[@]}" --no-deps --require-hashes -r "$(lock_for "$python")" >&2 && "${pip[@]}" --no-deps -e . >&2 ||
            fail "the installation failed; if it was the network, start again"
        built_from >$stamp && rm $unfinished
    }

    [[ -z "$LAVIS_MAFA_EXTRAS" ]] || fail "LAVIS_MAFA_EXTRAS is gone: .venv has every extra but gpu and lemmas" \
        "  For those, unset it and activate an environment of your own, with pip install -e \"$PWD[lavis,gpu,lemmas]\""
    active="${VIRTUAL_ENV:-$CONDA_PREFIX}" active="${active:+$active/bin/python}"
    active="${active:-$(command -v python || command -v python3)}"
    if [[ -z "$PYTHON" && "$active" != "$python" ]] && has_checkout "$active"; then echo "$active" && exit; fi
    if ! ready; then
        exec 9>.setup.lock || exit 1 # macOS has no flock: there, start one at a time
        ! has flock || flock -n 9 || { echo "lavis_mafa: waiting for a process that sets up .venv" >&2 && flock 9; }
        if [[ -e .venv && ! -e $unfinished && ! -f $stamp ]]; then
            has_checkout "$python" || fail "$PWD/.venv was not built by this script, and lacks this checkout: remove it"
        else
            ready || build
        fi
    fi
    echo "$python"
)

PYTHON_BIN="$(_python_bin)" || exit 1

if [[ -z "${LAVIS_MAFA_DATA:-}" && -d "$LAVIS_MAFA_ROOT/../shared/data" ]]; then
    export LAVIS_MAFA_DATA="${LAVIS_MAFA_ROOT%/*}/shared/data"
fi
export TOKENIZERS_PARALLELISM="${TOKENIZERS_PARALLELISM:-false}" # forked loader workers would warn at every start
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-passive}" # threads that spin while they wait stall a run on a busy machine
# By default glibc gives large buffers back to the kernel at once, and takes them anew, page by page, in the next step:
# that was half of a convolutional tower's time on a CPU and a third of the language head's.
export MALLOC_MMAP_THRESHOLD_="${MALLOC_MMAP_THRESHOLD_:-1073741824}"
export MALLOC_TRIM_THRESHOLD_="${MALLOC_TRIM_THRESHOLD_:-4294967296}"

if [[ "${BASH_SOURCE[0]}" == "$0" ]]; then printf '%s\n' "$PYTHON_BIN"; fi
