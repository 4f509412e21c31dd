#!/usr/bin/env bash
# Creates the virtual environment. Usage: install.sh PYTHON VENV FAISS_EXTRA
set -euo pipefail
python=$1 venv=$2 faiss=$3

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "Errata needs Python 3.11 or newer; '$python' is $("$python" -V 2>&1)." >&2
    echo "Name another one:  make install PYTHON=/path/to/python3.11" >&2
    exit 2
}
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv" || {
    echo "No venv module. On Debian or Ubuntu:  apt-get install python3-venv" >&2
    exit 2
}
pip=("$venv/bin/python" -m pip --disable-pip-version-check)
if [ "$faiss" = cpu ] && ! "$venv/bin/python" -c 'import torch' 2>/dev/null; then
    # PyPI's default torch for Linux carries CUDA: several GB that a CPU machine has no use for.
    # TORCH names another requirement; PIP_EXTRA_INDEX_URL names an index of CPU builds.
    "${pip[@]}" install "${TORCH:-torch==2.13.0}"
fi
"${pip[@]}" install -e ".[$faiss,dev]"
