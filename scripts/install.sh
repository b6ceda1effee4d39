#!/bin/sh
# Installs the project into a virtual environment: sh scripts/install.sh PYTHON
# Torch first: asked for alone and exactly, it takes the CPU build where the machine's index or wheel folder offers one.
# On Linux, PyPI's own build brings several GB of CUDA packages; TORCH_INDEX chooses another index, TORCH=skip keeps yours.
set -eu
python=$1
pip="$python -m pip --disable-pip-version-check"
if [ "${TORCH:-}" = skip ] || $python -c "import torch" 2>/dev/null; then
    echo "== keeping the torch that is there"
elif [ -n "${TORCH_INDEX:-}" ]; then
    $pip install -q "torch==$(sed -n 's/^torch==//p' constraints.txt)" --index-url "$TORCH_INDEX"
else
    torch="torch==$(sed -n 's/^torch==//p' constraints.txt)"
    # --no-deps in a dry run: does the index's build ask for CUDA? Then take the CPU build from PyTorch's own index.
    if $pip install -q --dry-run --report - "$torch" 2>/dev/null | grep -qi '"name": "nvidia-' && [ "${TORCH:-}" != cuda ]; then
        echo "== PyPI's torch brings several GB of CUDA packages; taking the CPU build instead (TORCH=cuda for the GPU build)"
        $pip install -q "$torch" --index-url https://download.pytorch.org/whl/cpu
    else
        $pip install -q "$torch"
    fi
fi
$pip install -q -c constraints.txt -e ".[all]"
