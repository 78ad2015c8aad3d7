#!/usr/bin/env bash
# Builds the R package from a clean copy: `tools/r-package.sh install` puts it into build/R-library,
# `tools/r-package.sh check` runs R CMD check and fails on errors and on warnings.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
export RETICULATE_PYTHON="$root/.venv/bin/python"

# R CMD build copies the whole folder, .venv and all, before it looks at .Rbuildignore: so it gets a copy without those.
stage() {
    rm -rf build/r-source
    mkdir -p build/r-source/pylmernn
    tar -cf - --exclude=./.venv --exclude=./.git --exclude=./build --exclude=./demo --exclude='*_cache' \
        --exclude='__pycache__' --exclude='*.Rcheck' . | tar -xf - -C build/r-source/pylmernn
}

install() {
    mkdir -p build/R-library
    # A fingerprint of the sources spares the ten seconds of an install that would change nothing.
    local key stamp=build/R-library/.stamp
    key=$(find DESCRIPTION NAMESPACE R pylmernn -type f -not -path "*/__pycache__/*" -print0 | sort -z | xargs -0 cat | sha256sum)
    [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$key" ] && return
    stage
    (cd build/r-source && R CMD INSTALL --no-docs --no-test-load --library="$root/build/R-library" pylmernn) \
        >build/r-install.log 2>&1 || { cat build/r-install.log; exit 1; }
    echo "$key" >"$stamp"
}

check() {
    stage
    cd build/r-source
    R CMD build pylmernn
    # Suggested packages that Debian lacks must not stop the check; tests that need them skip.
    _R_CHECK_FORCE_SUGGESTS_=false R CMD check --no-manual pylmernn_*.tar.gz || {
        cat pylmernn.Rcheck/00install.out pylmernn.Rcheck/tests/*.fail 2>/dev/null || true
        exit 1
    }
    tail -n 12 pylmernn.Rcheck/tests/testthat.Rout 2>/dev/null || true
    if grep -Eq '^Status:.*WARNING' pylmernn.Rcheck/00check.log; then
        echo "R CMD check has warnings, and they count as failures here (see above)." >&2
        exit 1
    fi
}

case "${1:-}" in
install) install ;;
check) check ;;
*)
    echo "usage: tools/r-package.sh install|check" >&2
    exit 2
    ;;
esac
