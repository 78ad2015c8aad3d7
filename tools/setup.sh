#!/usr/bin/env bash
# Makes everything `make demo` and `make test` need: Debian packages (as root) and .venv in the checkout.
# Safe to repeat: it does only what is missing, and takes a fraction of a second when nothing is.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# The first Python that is new enough. A pyenv shim may exist and still refuse to run, so each one is tried.
find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3.11 python3 /usr/bin/python3; do
        if [ -n "$candidate" ] && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            "$candidate" -c 'import sys; print(sys.executable)'
            return
        fi
    done
}

# The wanted packages that are not there, one a line. What did not come from Debian counts too: commands on the PATH, and
# R packages that R itself finds.
missing_packages() {
    local wanted name here
    wanted=$(grep -v '^#' tools/apt-packages.txt)
    if [ -z "$1" ]; then
        wanted="$wanted python3 python3-venv python3-dev"
    elif [[ "$(readlink -f "$1")" == /usr/bin/* ]]; then # Debian's own Python: venv and headers are packages apart
        wanted="$wanted python3-venv python3-dev"
    fi
    for name in $wanted; do
        dpkg-query -W -f '${Status}' "$name" 2>/dev/null | grep -q '^install ok installed$' || echo "$name"
    done | while read -r name; do
        case "$name" in
        r-cran-*)
            here=${here:-$(Rscript -e 'cat("", tolower(rownames(installed.packages())), "")' 2>/dev/null || echo none)}
            [[ "$here" == *" ${name#r-cran-} "* ]] || echo "$name"
            ;;
        r-base-dev) command -v R >/dev/null || echo "$name" ;;
        python3-venv) "$1" -c 'import ensurepip' 2>/dev/null || echo "$name" ;;
        python3-dev) "$1" -c "$has_headers" 2>/dev/null || echo "$name" ;;
        *) command -v "$name" >/dev/null || echo "$name" ;;
        esac
    done
}
has_headers='import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))'

install_packages() {
    local missing
    missing=$(missing_packages "$1" | tr '\n' ' ')
    missing=${missing% }
    [ -z "$missing" ] && return
    if ! command -v apt-get >/dev/null; then
        echo "Missing, and there is no apt-get to install it with (names of Debian packages): $missing" >&2
        exit 1
    fi
    if [ "$(id -u)" != 0 ]; then
        echo "Missing Debian packages, and only root may install them. Run as root:" >&2
        echo "    apt-get install --no-install-recommends $missing" >&2
        exit 1
    fi
    echo "Installing Debian packages: $missing"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq </dev/null
    # shellcheck disable=SC2086  # a list of words
    apt-get install -y -qq --no-install-recommends $missing </dev/null >/dev/null
}

# PyPI's torch brings several GB of CUDA; PyTorch's own index has a small CPU build. Used where it can be reached.
torch_index() {
    local url=https://download.pytorch.org/whl/cpu
    if .venv/bin/python -c "
import sys, urllib.request
urllib.request.urlopen('$url/torch/', timeout=5)" 2>/dev/null; then
        echo "--extra-index-url $url"
    fi
}

install_python() {
    local stamp=.venv/.pylmernn-setup key
    key=$({ "$1" --version; pwd; cat pyproject.toml constraints-debian12.txt tools/setup.sh; } | sha256sum)
    if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$key" ] && .venv/bin/python -c 'import pylmernn' 2>/dev/null; then
        return
    fi
    echo "Making .venv with $1 (about two minutes)"
    "$1" -m venv --clear .venv
    # shellcheck disable=SC2046  # nothing or two words
    .venv/bin/python -m pip install -qq --disable-pip-version-check $(torch_index) \
        -c constraints-debian12.txt -e '.[r,dev]' </dev/null
    echo "$key" >"$stamp"
}

install_packages "$(find_python)"
python=$(find_python)
if [ -z "$python" ]; then
    echo "No Python 3.11 or newer was found: install one, or name it, as in PYTHON=/path/to/python3.11 make test." >&2
    exit 1
fi
install_python "$python"
