#!/bin/sh
# Installs the project into a virtual environment: sh scripts/install.sh PYTHON
# Torch first: asked for alone and exactly, it takes the CPU build where the machine's index or wheel folder offers one.
# On Linux, PyPI's own build brings several GB of CUDA packages; TORCH_INDEX chooses another index, TORCH=skip keeps the one that VENV has.
set -eu
python=$1
pip() { "$python" -m pip --disable-pip-version-check "$@"; }
torch="torch==$(sed -n 's/^torch==//p' constraints.txt)"
# The requirements of the index's own build, read from its metadata; --no-deps, so that nothing large is fetched to find out.
needs_cuda() { pip install -q --dry-run --no-deps --report - "$torch" 2>/dev/null | grep -qE '"(nvidia|cuda)-'; }
if "$python" -c "import torch" 2>/dev/null; then
    echo "== keeping the torch that is there (remove $(dirname "$(dirname "$python")") first to choose another)"
elif [ "${TORCH:-}" = skip ]; then
    echo "TORCH=skip, but $python has no torch: install one first, or leave TORCH out / 这个环境里没有 torch，先装好，或去掉 TORCH=skip" >&2
    exit 1
elif [ -n "${TORCH_INDEX:-}" ]; then
    pip install -q "$torch" --index-url "$TORCH_INDEX"
elif [ "${TORCH:-}" = cuda ] || ! needs_cuda; then
    pip install -q "$torch"
elif ! pip install -q "$torch" --index-url https://download.pytorch.org/whl/cpu; then
    echo "The torch of this package index brings several GB of CUDA packages, and PyTorch's own index with CPU builds was not reached." >&2
    echo "Run again with TORCH_INDEX=URL of a mirror of it, or with TORCH=cuda to take the large build." >&2
    echo "这个软件源里的 torch 会带来好几 GB 的 CUDA 包，而 PyTorch 自己的 CPU 索引连不上。" >&2
    echo "重新运行时加 TORCH_INDEX=镜像地址，或加 TORCH=cuda 接受大的版本。" >&2
    exit 1
fi
# Torch is settled: its line must not bring back another build.
others=$(mktemp)
trap 'rm -f "$others"' EXIT
grep -v '^torch==' constraints.txt > "$others"
pip install -q -c "$others" -e ".[all]"
