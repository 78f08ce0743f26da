#!/bin/sh
# Install parfocal from this folder, with the tested versions, into a new virtual environment. Run by
# the Dockerfile, and by tests/test_container.py.
#   sh container/install.sh PREFIX DEVICE [EXTRAS]
# PREFIX   folder of the environment
# DEVICE   cpu or cuda
# EXTRAS   extras of parfocal, such as onnx,timm
# TORCH_INDEX in the environment is the index of torch's CPU builds; empty for the usual index, which
# on Linux has those with CUDA.
set -eu

if [ $# -lt 2 ]; then
    echo "usage: sh container/install.sh PREFIX DEVICE [EXTRAS]" >&2
    exit 2
fi
prefix=$1
device=$2
extras=${3:-}
source=$(cd "$(dirname "$0")/.." && pwd)
index=${TORCH_INDEX-https://download.pytorch.org/whl/cpu}

case $device in
    cpu) set -- ;;
    cuda) index= ;;
    *)
        echo "container/install.sh: device '$device' is not cpu or cuda" >&2
        exit 2
        ;;
esac
if [ -n "$index" ]; then
    set -- --extra-index-url "$index"
else
    set --
fi

python3 -m venv "$prefix"
"$prefix/bin/python" -m pip install --no-cache-dir --disable-pip-version-check "$@" \
    -c "$source/constraints.txt" "$source${extras:+[$extras]}"
"$prefix/bin/parfocal" --version
