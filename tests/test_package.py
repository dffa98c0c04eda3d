"""The project as it is installed: what the wheel holds, what an import brings in, who imports whom."""

from __future__ import annotations

import ast
import functools
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

import evodyn
from evodyn.solvers.compilation import SOURCES
from tests.scripts import COPY, WARNINGS

ROOT = Path(__file__).resolve().parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = ("evodyn", "nn_bridge")
SCRIPTS = ("studies", "paper_figures")


def python(code: str, *arguments: str) -> str:
    """Run code in a fresh interpreter at the root, with warnings as errors, and return what it printed."""
    done = subprocess.run(
        [sys.executable, *WARNINGS, "-c", code, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def imported_modules(file: Path, *, top_level_only: bool = False) -> set[str]:
    """Return the first part of every module that a file imports."""
    tree = ast.parse(file.read_text())
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


def distributions(requirements: list[str]) -> set[str]:
    """Return the modules that a list of requirements brings, by the rule that - becomes _."""
    names = (re.split(r"[\s<>=!~;\[]", requirement)[0] for requirement in requirements)
    return {name.replace("-", "_") for name in names}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built from a copy of the sources that also has what must stay outside."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for folder in (*PACKAGES, *SCRIPTS, "tests"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = out.glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_holds_packages_and_studies_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    info = f"evodyn-{evodyn.__version__}.dist-info"
    code = {str(path.relative_to(ROOT)) for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    code |= {f"evodyn_studies/{path.name}" for path in (ROOT / "studies").glob("*.py")}
    data = {f"nn_bridge/data/{path.name}" for path in (ROOT / "nn_bridge" / "data").iterdir()}
    data |= {f"evodyn_studies/data/{path.name}" for path in (ROOT / "studies" / "data").iterdir()}
    about = {
        f"{info}/{name}"
        for name in (
            "METADATA",
            "RECORD",
            "WHEEL",
            "entry_points.txt",
            "top_level.txt",
            "licenses/LICENSE",
            "licenses/nn_bridge/data/LICENSE-MNIST.txt",
        )
    }
    expected = code | data | about | {f"{package}/py.typed" for package in PACKAGES}
    assert set(wheel.namelist()) == expected
    assert {f"nn_bridge/data/{name}.gz" for name in MNIST} <= expected
    metadata = wheel.read(f"{info}/METADATA").decode()
    assert "License-Expression: MIT AND CC-BY-SA-3.0" in metadata
    assert "Requires-Python: >=3.11" in metadata


TASKS = """
import dataclasses, importlib, inspect, json, sys
from evodyn.sweeps.points import code_of
sys.path.insert(0, sys.argv[1])
found = {}
for name in sys.argv[3:]:
    module = importlib.import_module(sys.argv[2] + name)
    own = [value for value in vars(module).values() if getattr(value, "__module__", "") == module.__name__]
    points = [kind for kind in own if inspect.isclass(kind) and dataclasses.is_dataclass(kind)]
    for task in filter(inspect.isfunction, own):
        found[f"{name}:{task.__qualname__}"] = code_of(task, points)
print(json.dumps(found))
"""


@pytest.mark.slow
def test_installed_studies_go_on_with_the_points_of_a_clone(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    wheel.extractall(tmp_path / "installed")
    arguments = ["--groups", "8", "--t-end", "20", "--seeds", "1", "--heterogeneity", "1", "--decay", "0"]
    paths = {"PYTHONPATH": str(tmp_path / "installed"), "COLUMNS": "200"}

    def run(*command: str) -> str:
        line = [sys.executable, *WARNINGS, *command, *arguments]
        done = subprocess.run(
            line, cwd=tmp_path, env=os.environ | paths, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return " ".join(done.stderr.split())

    folder = tmp_path / "results" / "extinction" / "heterogeneity-1.0_decay-0.0_groups-8_t_end-20.0_seeds-1"
    assert "0 of 1 points reused" in run("-m", "evodyn_studies.extinction")
    installed = (folder / "extinction.csv").read_bytes()
    assert "1 of 1 points reused" in run(str(COPY / "studies" / "extinction.py"), "--out", str(folder))
    assert (folder / "extinction.csv").read_bytes() == installed
    # The code of every function is the same by either name.
    names = [
        path.stem for path in (ROOT / "studies").glob("[a-z]*.py") if "nn_bridge" not in path.read_text()
    ]
    by_name = [
        json.loads(python(TASKS, str(folder), package, *names))
        for folder, package in ((tmp_path / "installed", "evodyn_studies."), (ROOT / "studies", ""))
    ]
    assert by_name[0] == by_name[1]
    assert {"extinction:simulate", "noise:duel", "fixed_points:confront"} <= set(by_name[0])


MNIST = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def test_importing_evodyn_brings_in_nothing_that_loads_on_demand() -> None:
    loaded = set(python("import evodyn, sys; print(*{m.split('.')[0] for m in sys.modules})").split())
    on_demand = {
        "torch",
        "numba",
        "llvmlite",
        "matplotlib",
        "sympy",
        "xarray",
        "pandas",
        "h5netcdf",
        "h5py",
        "joblib",
    }
    assert not loaded & (on_demand | {"distributed", "dask", "typer", "rich", "threadpoolctl", "nn_bridge"})
    assert {"numpy", "scipy", "array_api_compat"} <= loaded


@pytest.mark.slow
def test_importing_evodyn_takes_under_half_a_second_beyond_scipy() -> None:
    code = (
        "import time, numpy, scipy.integrate; start = time.process_time(); import evodyn; "
        "print(time.process_time() - start)"
    )
    assert min(float(python(code)) for _ in range(2)) < 0.5


def test_public_names_are_there_and_documented() -> None:
    contract = {
        *("Replicator", "NormalizedGrowth", "SelectionMutation", "ReplicatorMutator", "Selection"),
        "Populations",
        *("solve", "iterate", "extend", "load", "solve_ensemble", "equilibrium", "sweep", "landscapes"),
        *("Extinction", "Solver", "Run", "Termination", "SolveError"),
    }
    assert contract <= set(evodyn.__all__)
    assert sorted(evodyn.__all__) == list(evodyn.__all__)
    assert dir(evodyn) == evodyn.__all__
    for name in evodyn.__all__:
        assert (getattr(evodyn, name).__doc__ or "").strip(), name
    landscapes = {
        *("Constant", "LinearDecay", "Entropic", "MatrixGame", "BlockGame", "Redundancy", "Seasonal"),
        "Recorded",
        "contributions",
    }
    assert landscapes <= set(evodyn.landscapes.__all__)


def test_every_public_class_and_function_has_an_example() -> None:
    modules = [value for value in map(evodyn.__getattribute__, evodyn.__all__) if hasattr(value, "__all__")]
    assert len(modules) >= 6
    for home in (evodyn, *modules):
        public = {name: getattr(home, name) for name in home.__all__}
        bare = {
            name for name, value in public.items() if callable(value) and ">>>" not in (value.__doc__ or "")
        }
        assert bare <= {"LandscapeFunction", "Calculus"}, home.__name__  # types for annotations


def test_the_version_is_the_same_everywhere() -> None:
    assert PROJECT["project"]["version"] == evodyn.__version__
    assert f"version: {evodyn.__version__}" in (ROOT / "CITATION.cff").read_text()
    assert f"[{evodyn.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_the_workflow_runs_what_has_to_pass_on_every_python_that_is_promised() -> None:
    workflow = (ROOT / ".github" / "workflows" / "tests.yml").read_text()
    words = set(re.findall(r"[\w-]+", workflow))
    has_to_pass = (ROOT / ".ci" / "run").read_text()
    called = " ".join(re.findall(r'(?m)^(?!#).*\bmake ([^;"\n]*)', has_to_pass)).split()
    targets = {word for word in called if not {"=", "/"} & set(word)}  # environments are files
    assert {"test", "test-brief"} <= targets <= words
    promised = [c.split(" :: ")[-1] for c in PROJECT["project"]["classifiers"] if "Python :: 3." in c]
    assert str(promised).replace("'", '"') in workflow


def test_everything_imported_is_declared() -> None:
    extras: dict[str, list[str]] = PROJECT["project"]["optional-dependencies"]
    groups: dict[str, list[Any]] = PROJECT["dependency-groups"]
    core = distributions(PROJECT["project"]["dependencies"])
    developing = [[entry for entry in group if isinstance(entry, str)] for group in groups.values()]
    declared = core.union(*map(distributions, [*extras.values(), *developing]))
    ours = {*PACKAGES, *SCRIPTS, "benchmarks", "tests", "_shared", "_former", "style"}
    for folder in (*PACKAGES, *SCRIPTS, "benchmarks", "tests"):
        for file in (ROOT / folder).rglob("*.py"):
            foreign = imported_modules(file) - set(sys.stdlib_module_names) - ours
            assert foreign <= declared, f"{file.relative_to(ROOT)}: {foreign - declared}"
            if folder == "evodyn":
                eager = imported_modules(file, top_level_only=True) - set(sys.stdlib_module_names) - ours
                # These are imported by the first run that is compiled, and by whoever draws.
                compiled = distributions(extras["fast"]) if file.name in SOURCES else set()
                drawing = distributions(extras["plots"]) if file.parent.name == "plots" else set()
                assert eager <= core | compiled | drawing, f"{file.relative_to(ROOT)}: {eager - core}"


@pytest.mark.parametrize("folder", SCRIPTS)
def test_scripts_share_one_module_and_do_not_import_each_other(folder: str) -> None:
    files = list((ROOT / folder).glob("*.py"))
    assert files
    shared = "_shared" if folder == "studies" else "style"
    names = {file.stem for file in files} - {shared, "_former"}
    for file in files:
        assert not imported_modules(file) & (names | {"studies", "paper_figures"}), file.name
    # The checker sees an import where there is one.
    assert shared in imported_modules(ROOT / folder / "extinction.py")


def test_whoever_lacks_a_library_learns_which_extra_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in list(sys.modules):
        if module in ("evodyn.symbolic", "evodyn.analysis.symbolic") or module.startswith("evodyn.plots"):
            monkeypatch.delitem(sys.modules, module)
    for library in ("sympy", "joblib", "matplotlib"):
        monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError, match=r'plots needs matplotlib, .*: pip install "evodyn\[plots\]"'):
        importlib.import_module("evodyn.plots")
    with pytest.raises(ImportError, match=r'symbolic needs sympy, .*: pip install "evodyn\[symbolic\]"'):
        importlib.import_module("evodyn.symbolic")
    landscapes = [evodyn.landscapes.Constant([1.0, k]) for k in range(2)]
    problem = (evodyn.Replicator(), landscapes, [1.0, 1.0], (0.0, 1.0))
    with pytest.raises(
        ImportError, match=r'solve_ensemble.* needs joblib, .*: pip install "evodyn\[studies\]"'
    ):
        evodyn.solve_ensemble(*problem, workers=2)
    assert len(evodyn.solve_ensemble(*problem)) == 2  # one process does without


def test_the_command_lists_the_studies_and_runs_one(tmp_path: Path) -> None:
    evodyn_command = [sys.executable, "-m", "evodyn"]
    run = functools.partial(
        subprocess.run,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    listed = run(evodyn_command).stdout
    studies = {file.stem for file in (ROOT / "studies").glob("[!_]*.py")}
    assert studies == {line.split()[0] for line in listed.partition("Studies:")[2].splitlines() if line}
    done = run([*evodyn_command, "trajectories", "--smoke", "--groups", "3", "--t-end", "5"])
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "results" / "quick" / "trajectories").rglob("trajectories.csv"))
    assert "did you mean extinction?" in run([*evodyn_command, "extinctoin"]).stderr


def test_dataclasses_are_frozen_but_for_the_one_in_the_making() -> None:
    files = [file for folder in (*PACKAGES, *SCRIPTS) for file in (ROOT / folder).rglob("*.py")]
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text()))]
    marked = [
        (n.name, ast.unparse(d)) for n in nodes if isinstance(n, ast.ClassDef) for d in n.decorator_list
    ]
    made = [(name, mark) for name, mark in marked if "dataclass" in mark]
    assert len(made) > 50
    assert [name for name, mark in made if "frozen=True" not in mark] == ["Outcome"]


def test_no_file_is_pickled_and_nothing_is_downloaded() -> None:
    """Pickles are made in one module, for other processes."""
    for file in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        travels = file == ROOT / "evodyn" / "core" / "pickles.py"
        assert travels == ("cloudpickle" in file.read_text()), file
        assert not imported_modules(file) & {"marshal", "shelve", "urllib", "requests"}, file
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                # An unpickling error may be caught; nothing may be unpickled.
                allowed = {"UnpicklingError", "loads"} if travels else {"UnpicklingError"}
                assert node.value.id != "pickle" or node.attr in allowed, file
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                assert "weights_only=True" in ast.unparse(node), file
