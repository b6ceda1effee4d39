"""What importing costs, and what the environment file holds."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "transformers", "sentence_transformers", "langchain", "matplotlib", "datasets", "pandas", "scipy")
LIGHT = ("", ".profiles", ".models", ".corpora", ".formats", ".cli")


@pytest.mark.parametrize("module", LIGHT)
def test_importing_a_light_module_pulls_in_nothing_heavy(module):
    code = f"import sys, retrieval_lab{module}; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


def test_environment_file_holds_python_pip_and_the_package_and_nothing_else():
    import yaml

    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    python, pip, from_pip = environment.pop("dependencies")
    assert python.split("=")[0] == "python" and pip == "pip" and from_pip == {"pip": ["-e .[all]"]}
    assert set(environment) == {"name", "channels"}
