"""Names of modules, where Python finds a script's own folder first."""

import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "smartfast"


def names_of_dependencies() -> set[str]:
    """What the dependencies of pyproject.toml, optional ones too, are imported as."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    wanted = {normal(re.split(r"[\[<>=;]", line)[0]) for group in groups for line in group}
    installed = {name for name, owners in packages_distributions().items() if wanted & {normal(o) for o in owners}}
    return installed | {name.replace("-", "_") for name in wanted}


def normal(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).strip().lower()


def test_no_module_has_the_name_of_another() -> None:
    ours = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    dependencies = names_of_dependencies()
    assert {"kernels", "train", "scorers"} <= ours and {"torch", "PIL", "yaml"} <= dependencies
    assert not ours & (dependencies | set(sys.stdlib_module_names))


ACCELERATE = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1"]


@pytest.mark.parametrize("launcher", [[sys.executable], ACCELERATE], ids=["python", "accelerate"])
def test_the_package_kernels_is_found_beside_ours(launcher: list[str], tmp_path: Path) -> None:
    """train.py as a script: `import kernels`, by whichever library, is the package of that name and not our folder."""
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "__init__.py").write_text("print('the package of that name')\n")
    # Imports it when the script is done, with the path that the script had.
    (tmp_path / "sitecustomize.py").write_text(
        "import atexit, sys\natexit.register(lambda: sys.argv[0].endswith('train.py') and __import__('kernels'))\n"
    )
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": path, "ACCELERATE_DISABLE_RICH": "1"}
    run = subprocess.run(
        [*launcher, str(PACKAGE / "train.py"), "--help"], capture_output=True, text=True, env=environment, cwd=tmp_path
    )
    assert run.returncode == 0 and "usage: smartfast train" in run.stdout, run.stderr
    assert run.stdout.rstrip().endswith("the package of that name")
