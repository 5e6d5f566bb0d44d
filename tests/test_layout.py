"""The rules of the house: who may import whom."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

# Lowest first. An import points to the same folder or to a lower layer, never up or sideways.
LAYERS = (
    ("byol", "byol.errors", "byol.files", "byol.progress"),
    ("byol.encoder", "byol.whitening"),
    ("byol.method", "byol.schedules", "byol.optim"),
    ("byol.hardware",),
    ("byol.views",),
    ("byol.config",),
    ("byol.run",),
    ("byol.evaluation", "byol.report", "byol.command_line", "data"),
    ("train_byol", "train_classifier", "plot_losses", "predict", "explore", "export", "hubconf"),
    ("evaluate",),
    ("benchmarks",),
    ("experiments",),
)
# All of the project that these may import, beside their own folder.
ONLY = {"byol.method": ("byol.encoder", "byol.whitening"), "data": ("byol.errors", "byol.files")}
FOLDERS = ("byol", "data", "benchmarks", "experiments")


def place(module: str) -> tuple[int, str] | None:
    """Find the layer of a module, and the name there that it belongs to; None if it has none."""
    for layer, names in enumerate(LAYERS):
        for name in names:
            if module == name or (module.startswith(f"{name}.") and name != "byol"):
                return layer, name
    return None


def read_modules(root: Path) -> dict[str, Path]:
    """List the project's modules: {"byol.run.run": path, ...}."""
    paths = [*root.glob("*.py"), *(p for folder in FOLDERS for p in (root / folder).rglob("*.py"))]
    return {".".join(p.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): p
            for p in paths}  # fmt: skip


def imported(module: str, path: Path, modules: dict[str, Path]) -> Iterator[str]:
    """Yield the project's modules that a file imports, anywhere in it."""
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            # what is imported may be a module of the package, or a name in it
            names = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            while name and name not in modules:
                name = name.rpartition(".")[0]
            if name in modules:
                yield name


def faults(root: Path) -> list[str]:
    """Say which imports break a rule."""
    modules = read_modules(root)
    imports = {m: sorted(set(imported(m, p, modules)) - {m}) for m, p in modules.items()}
    told = [f"{module} has no layer" for module in modules if place(module) is None]
    for module, others in imports.items():
        for other in others:
            if place(module) is None or place(other) is None:
                continue
            (layer, name), (other_layer, other_name) = place(module), place(other)
            if name == other_name:
                continue
            if other_layer >= layer:
                told.append(f"{module} imports {other}, which is not below it")
            elif name in ONLY and other not in ONLY[name]:
                told.append(f"{module} imports {other}; of the project it may {ONLY[name]} only")
    return told + [f"a circle: {' -> '.join(circle)}" for circle in circles(imports)]


def circles(imports: dict[str, list[str]]) -> list[list[str]]:
    """Find modules that import each other, directly or through others."""
    found, done = [], set()

    def follow(module: str, way: list[str]) -> None:
        if module in way:
            found.append([*way[way.index(module) :], module])
        elif module not in done:
            for other in imports[module]:
                follow(other, [*way, module])
            done.add(module)

    for module in imports:
        follow(module, [])
    return found


def test_every_import_keeps_the_rules(root):
    assert faults(root) == []


def test_the_rules_are_about_files_that_are_there(root):
    modules = read_modules(root)
    for name in [name for names in LAYERS for name in names]:
        assert name in modules or any(module.startswith(f"{name}.") for module in modules), name
    assert len(modules) > 60


@pytest.fixture
def house(root, tmp_path) -> Path:
    """The project's files, all of them empty."""
    for path in read_modules(root).values():
        empty = tmp_path / path.relative_to(root)
        empty.parent.mkdir(parents=True, exist_ok=True)
        empty.touch()
    return tmp_path


@pytest.mark.parametrize(
    ("file", "text", "told"),
    [
        ("byol/run/run.py", "from data import open_photos", "byol.run.run imports data,"),
        ("byol/run/run.py", "import data.opening as opening", "byol.run.run imports data.opening,"),
        (
            "data/packing.py",
            "from byol.schedules import Schedule",
            "data.packing imports byol.schedules;",
        ),
        (
            "data/folders.py",
            "def f():\n    from byol import config",
            "data.folders imports byol.config;",
        ),
        ("byol/method.py", "from byol.errors import UserError", "byol.method imports byol.errors;"),
        ("byol/method.py", "import byol.hardware.step", "byol.method imports byol.hardware.step,"),
        ("byol/encoder.py", "from byol.optim import LARS", "byol.encoder imports byol.optim,"),
        ("byol/files.py", "from byol.errors import UserError", "byol.files imports byol.errors,"),
        ("byol/views/draws.py", "from ..run import run", "byol.views.draws imports byol.run.run,"),
        ("byol/config.py", "import torch, byol.command_line", "byol.config imports byol.command_"),
        ("train_byol.py", "import evaluate", "train_byol imports evaluate,"),
        ("train_byol.py", "import train_classifier", "train_byol imports train_classifier,"),
        ("plot_losses.py", "from experiments import lightly", "plot_losses imports experiments."),
        (
            "byol/report/table_files.py",
            "import benchmarks.common",
            "byol.report.table_files imports benchmarks.",
        ),
        ("byol/utils.py", "", "byol.utils has no layer"),
    ],
)
def test_an_import_that_breaks_a_rule_is_told(house, file, text, told):
    assert faults(house) == []
    (house / file).write_text(f"{text}\n")
    (fault,) = faults(house)
    assert fault.startswith(told)


def test_a_circle_is_told(house):
    """Also of several modules, and with an import inside a function."""
    folder = house / "byol" / "hardware"
    (folder / "device.py").write_text("from . import step\n")
    (folder / "step.py").write_text("from byol.hardware.cuda_graph import record\n")
    assert faults(house) == []
    (folder / "cuda_graph.py").write_text("def f():\n    import byol.hardware.device as device\n")
    (fault,) = faults(house)
    assert fault.startswith("a circle: ")
    assert {name.rpartition(".")[2] for name in fault[10:].split(" -> ")} == {
        "device", "step", "cuda_graph"
    }  # fmt: skip


def test_what_the_rules_allow_is_not_told(house):
    (house / "evaluate.py").write_text("import train_classifier\nfrom data import open_photos\n")
    (house / "data" / "pack.py").write_text(
        "from byol.errors import UserError\nfrom data import folders"
    )
    (house / "byol" / "method.py").write_text("import torch\nfrom byol.encoder import Encoder\n")
    (house / "byol" / "hardware" / "step.py").write_text("from byol.method import BYOL\n")
    assert faults(house) == []
