#!/bin/sh
# Installs the project into a virtual environment: sh scripts/install.sh PYTHON
# Torch first: asked for alone and exactly, it takes the CPU build where the machine's index or wheel folder offers one.
# On Linux, PyPI's own build brings several GB of CUDA packages; TORCH_INDEX chooses another index, TORCH=skip keeps yours.
set -eu
python=$1
pip() { "$python" -m pip --disable-pip-version-check "$@"; }
torch="torch==$(sed -n 's/^torch==//p' constraints.txt)"
if [ "${TORCH:-}" = skip ] || "$python" -c "import torch" 2>/dev/null; then
    echo "== keeping the torch that is there"
elif [ -n "${TORCH_INDEX:-}" ]; then
    pip install -q "$torch" --index-url "$TORCH_INDEX"
elif [ "${TORCH:-}" = cuda ] || ! pip install -q --dry-run --report - "$torch" 2>/dev/null | grep -qi '"name": "nvidia-'; then
    pip install -q "$torch"
elif ! pip install -q "$torch" --index-url https://download.pytorch.org/whl/cpu; then
    echo "The torch of this package index brings several GB of CUDA packages, and PyTorch's own index with CPU builds was not reached." >&2
    echo "Run again with TORCH_INDEX=URL of a mirror of it, or with TORCH=cuda to take the large build." >&2
    echo "这个软件源里的 torch 会带来好几 GB 的 CUDA 包，而 PyTorch 自己的 CPU 索引连不上。" >&2
    echo "重新运行时加 TORCH_INDEX=镜像地址，或加 TORCH=cuda 接受大的版本。" >&2
    exit 1
fi
pip install -q -c constraints.txt -e ".[all]"
