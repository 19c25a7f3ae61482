# The Python that the scripts run: an active environment that has this checkout, else .venv, which the first start builds.
#
#   source run_scripts/setup.sh      in a script: sets PYTHON_BIN and LAVIS_MAFA_ROOT, ends the script where it cannot
#   bash run_scripts/setup.sh        by hand: sets up and prints the path of that Python
#
# PYTHON   the interpreter to build .venv with; default: the newest of Python 3.13 to 3.10 that is found
#
# .venv holds what constraints/ names for its Python; its stamp says what it was built from, so that a second start costs
# milliseconds. While it is built, .venv.unfinished stands beside it: an interrupted set-up starts from scratch.

LAVIS_MAFA_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

_python_bin() ( # a subshell: the lock and the names below end with it
    set +eu
    cd "$LAVIS_MAFA_ROOT" || exit 1
    venv="$LAVIS_MAFA_ROOT/.venv" python="$LAVIS_MAFA_ROOT/.venv/bin/python"
    unfinished=.venv.unfinished stamp=.venv/lavis_mafa.built log=.venv/setup.log

    say() { printf '%s\n' "$@" >&2; }
    fail() { say "lavis_mafa: $1" "${@:2}"; exit 1; } # what is wrong, then the remedies
    has() { command -v "$1" >/dev/null; }
    version() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }
    built_from() { { pwd && cat pyproject.toml constraints/*.txt; } | cksum; }

    use() { # print this Python, if its lavis_mafa is this checkout's
        local missing
        missing="$("$1" -I -c 'import importlib.util as util, os, sys
origin = getattr(util.find_spec("lavis_mafa"), "origin", None) or ""
if os.path.realpath(origin) != os.path.realpath("lavis_mafa/__init__.py"): sys.exit(1)
print(*(name for name in ("lavis", "transformers", "faiss") if util.find_spec(name) is None))' 2>/dev/null)" || return 1
        [[ -z "$missing" ]] || fail "$1 has this checkout, but lacks $missing; in that environment:" \
            "  pip install -e \"$PWD[lavis,cpu]\" && pip install --no-deps salesforce-lavis==1.0.2"
        echo "$1"
    }
    ready() { # .venv is whole, up to date, and of the Python that PYTHON names
        [[ -x "$python" && -f $stamp && ! -e $unfinished && "$(sed -n 1p $stamp)" == "$(built_from)" ]] &&
            [[ -z "$PYTHON" || "$(sed -n 2p $stamp)" == "$(version "$PYTHON")" ]]
    }
    remedies() { # how to get a supported Python on this system
        local ID="" VERSION_ID="" apt=""
        eval "$(cat /etc/os-release 2>/dev/null | grep -E '^(ID|VERSION_ID)=')"
        case "$ID $VERSION_ID" in
            "debian 12") apt=python3.11 ;; "debian 13") apt=python3.13 ;;
            "ubuntu 22.04") apt=python3.10 ;; "ubuntu 24.04") apt=python3.12 ;;
        esac
        if [[ -n "$apt" ]]; then echo "  sudo apt install $apt $apt-venv"
        elif has dnf; then echo "  sudo dnf install python3.13"
        elif has brew; then echo "  brew install python@3.13"; fi
        if has conda; then echo "  conda create -y -n mafa python=3.13 && conda activate mafa"; fi
        echo "  any system: install uv and start again, it brings a Python; or PYTHON=/path/to/python3.13 bash $0"
    }
    base_python() { # the interpreter to build .venv with
        local candidates=(python3.13 python3.12 python3.11 python3.10 python3 python) candidate number found=""
        if [[ -n "$PYTHON" ]]; then candidates=("$PYTHON"); fi
        for candidate in "${candidates[@]}"; do
            number="$(version "$candidate")" || continue
            if [[ "$number" == 3.1[0-3] ]]; then command -v "$candidate" && return; fi
            found="$found $candidate is $number;"
        done
        if [[ -z "$PYTHON" ]] && has uv; then echo 3.13 && return; fi
        fail "Python 3.10 to 3.13 is needed${PYTHON:+, PYTHON=$PYTHON}; found:${found:- none}" "$(remedies)"
    }
    new_venv() {
        local base free_gb
        base="$(base_python)" || exit 1
        has uv || "$base" -c 'import ensurepip, venv' 2>/dev/null ||
            fail "$base lacks the venv module" "  Debian, Ubuntu:  sudo apt install python$(version "$base")-venv"
        free_gb="$(df -Pk . | awk 'NR == 2 { print int($4 / 1024 / 1024) }')"
        ((free_gb >= 10)) || fail "10 GB of free disk space are needed, but $PWD has $free_gb GB" "  'pip cache purge' often frees some."
        say "lavis_mafa: building $venv with $base (7 GB; 2 minutes on 2 cores, and the download)"
        : >$unfinished && rm -rf .venv || exit 1
        if has uv; then uv venv --quiet --seed --python "$base" .venv >&2; else "$base" -m venv .venv >&2; fi ||
            fail "$base could not build $venv" "$(remedies)"
    }
    progress() { # a line every 10 s, while this script lives
        while sleep 10 &>/dev/null && kill -0 $$ 2>/dev/null; do
            say "  $(printf '%4d s  %5s  %.80s' $SECONDS "$(du -sh .venv 2>/dev/null | cut -f1)" "$(tail -n 1 $log)")"
        done
    }
    install() { # the tested versions by their hashes, LAVIS among them, then this checkout
        local pip=("$python" -m pip install --disable-pip-version-check --progress-bar off) job status
        if has uv; then pip=(uv pip install --python "$python"); fi
        progress 9>&- >/dev/null & job=$!
        "${pip[@]}" --no-deps --require-hashes -r "constraints/py${1/./}.txt" >$log 2>&1 &&
            "${pip[@]}" --no-deps -e . >>$log 2>&1
        status=$?
        kill $job 2>/dev/null && wait $job 2>/dev/null
        ((status == 0)) || fail "the installation failed; the end of $PWD/$log:" "$(tail -n 15 $log)" \
            "  If the network failed, start again."
    }
    build() {
        if [[ -e .venv && ! -e $unfinished ]] && ! compgen -G ".venv/lavis_mafa.*" >/dev/null; then
            use "$python" || fail "$venv was not built by this script, and lacks this checkout" "  Remove it, and start again."
            return
        fi
        if [[ -e $unfinished || ! -f $stamp || "$(sed -n 2p $stamp)" != "$(version "${PYTHON:-$python}")" ]]; then new_venv; fi
        : >$unfinished
        install "$(version "$python")"
        { built_from && version "$python"; } >$stamp && rm $unfinished && say "lavis_mafa: .venv is ready" && echo "$python"
    }

    [[ -z "$LAVIS_MAFA_EXTRAS" ]] || fail "LAVIS_MAFA_EXTRAS is gone: .venv has every extra but gpu and lemmas" \
        "  For those, unset it and activate an environment of your own, with pip install -e \"$PWD[lavis,gpu,lemmas]\""
    active="${VIRTUAL_ENV:-$CONDA_PREFIX}" active="${active:+$active/bin/python}"
    active="${active:-$(command -v python || command -v python3)}"
    if [[ -z "$PYTHON" && "$active" != "$venv"/* ]] && use "$active"; then exit; fi
    if ready; then echo "$python" && exit; fi
    exec 9>.setup.lock || exit 1 # macOS has no flock: there, start one at a time
    ! has flock || flock -n 9 || { say "lavis_mafa: another process is setting up .venv; waiting for it" && flock 9; }
    if ready; then echo "$python"; else build; fi
)

PYTHON_BIN="$(_python_bin)" || exit 1

if [[ -z "${LAVIS_MAFA_DATA:-}" && -d "$LAVIS_MAFA_ROOT/../shared/data" ]]; then
    LAVIS_MAFA_DATA="$(cd "$LAVIS_MAFA_ROOT/../shared/data" && pwd)"
    export LAVIS_MAFA_DATA
fi
export TOKENIZERS_PARALLELISM="${TOKENIZERS_PARALLELISM:-false}" # forked loader workers would warn at every start

# By default glibc gives large buffers back to the kernel at once, and takes them anew, page by page, in the next step:
# that was half of a convolutional tower's time on a CPU and a third of the language head's.
export MALLOC_MMAP_THRESHOLD_="${MALLOC_MMAP_THRESHOLD_:-1073741824}" MALLOC_TRIM_THRESHOLD_="${MALLOC_TRIM_THRESHOLD_:-4294967296}"

if [[ "${BASH_SOURCE[0]}" == "$0" ]]; then printf '%s\n' "$PYTHON_BIN"; fi
