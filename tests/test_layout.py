"""The layout: which module may import which, and one test file for each module, named alike."""

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TESTS = ROOT / "tests"
PACKAGES = {
    "verimargin": ROOT / "plugin" / "verimargin",
    "verimargin_speechbrain": ROOT / "adapters" / "verimargin_speechbrain",
    "verimargin_insightface": ROOT / "adapters" / "verimargin_insightface",
}

# What each room of the core may import of the others; "base" is _checks and _sharding, "" the package itself.
ROOMS = {
    "": {"losses", "head", "kappa", "scoring", "metrics", "sharded_state"},
    "base": set(),
    "metrics": {"base"},
    "sharded_state": {"base"},
    "losses": {"base"},
    "head": {"losses", "base"},
    "kappa": {"base"},
    "scoring": {"base"},
    "files": {"scoring", "base"},
    "commands": {"files", "head", "scoring", "metrics", "base", ""},
}
# The libraries that a room, or a folder in it, may import besides Python's own, torch and NumPy. None is a toolkit.
LIBRARIES = {
    "files": {"onnx", "onnxruntime"},
    "commands": {"typer", "rich", "tqdm", "matplotlib", "cycler", "jinja2", "markupsafe", "markdown_it", "yaml"},
    "head.kernels": {"triton"},
}
# The packages that an adapter must not know.
STRANGERS = {
    "verimargin_speechbrain": {"verimargin_insightface"},
    "verimargin_insightface": {"verimargin_speechbrain", "speechbrain"},
}
# The commands that run others, one after the other.
CHAINS = {"verimargin.commands.evaluate"}
# Test files that mirror no module, and why.
WITHOUT_MODULE = {
    "verimargin/test_devices.py": "every computation of the core on a GPU",
    "verimargin/test_packaging.py": "what an installed package does without its optional dependencies",
    "verimargin_speechbrain/test_recipes.py": "the recipes in hparams/speechbrain",
    "verimargin_speechbrain/test_upstream.py": "SpeechBrain's own scripts, unmodified",
    "verimargin_insightface/test_hparams.py": "the configs in hparams/arcface_torch",
    "verimargin_insightface/test_upstream_training.py": "InsightFace's own train_v2.py, unmodified",
    "verimargin_insightface/test_upstream_export.py": "InsightFace's own ONNX export, unmodified",
    "verimargin_insightface/test_upstream_evaluation.py": "InsightFace's own evaluators, unmodified",
}


def module_name(package, path):
    parts = path.relative_to(PACKAGES[package]).with_suffix("").parts
    return ".".join([package, *(part for part in parts if part != "__init__")])


SOURCES = {module_name(package, path): path for package, folder in PACKAGES.items() for path in folder.rglob("*.py")}
BY_PACKAGE = {package: [name for name in SOURCES if name.split(".")[0] == package] for package in PACKAGES}


def imports(source, module, is_package=False):
    """(line, module) of each import anywhere in the source, relative ones and those inside functions among them."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = module.split(".")
            parents = parents[: len(parents) - node.level + is_package] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            for alias in node.names:
                name = f"{base}.{alias.name}"
                yield node.lineno, name if name in SOURCES else base


def imports_of(module):
    path = SOURCES[module]
    return list(imports(path.read_text(encoding="utf-8"), module, path.name == "__init__.py"))


def room(module):
    """The room of a module of the core."""
    _, name, *_ = [*module.split("."), ""]
    return "base" if name.startswith("_") else name


def command_modules():
    """The modules that an entry point of pyproject.toml names as a command or a demo."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    sections = re.findall(
        r'^\[project\.entry-points\."verimargin\.(?:commands|demos)"\]\n((?:[^\[\n].*\n)+)', text, re.MULTILINE
    )
    lines = [line for section in sections for line in section.splitlines()]
    modules = set(re.findall(r'^[\w-]+ = "([\w.]+):\w+"$', "\n".join(lines), re.MULTILINE))
    assert len(sections) == 2
    assert len(modules) == len(lines)
    assert modules <= set(SOURCES)
    return modules


def refused_in_the_core(module, target):
    """Why a module of the core must not import the target; empty if it may."""
    here, (package, *_) = room(module), target.split(".")
    if package != "verimargin":
        folder = ".".join(module.split(".")[1:3])
        allowed = {"torch", "numpy", *sys.stdlib_module_names, *LIBRARIES.get(here, ()), *LIBRARIES.get(folder, ())}
        return "" if package in allowed else f"{here or 'the package'} must not import {package}"
    there = room(target)
    return "" if there in ROOMS[here] | {here} else f"{here or 'the package'} must not import {there or 'the package'}"


def refused_in_an_adapter(module, target):
    """Why a module of an adapter must not import the target; empty if it may."""
    package, *inside = module.split(".")
    if target.split(".")[0] in STRANGERS[package]:
        return f"{package} must not know {target.split('.')[0]}"
    if f"{target}.".startswith("verimargin.commands.") and inside[:1] != ["commands"]:
        return "only an adapter's commands may import those of the core"
    return ""


def faults(modules, refused):
    for module in modules:
        for line, target in imports_of(module):
            if reason := refused(module, target):
                yield f"{SOURCES[module].relative_to(ROOT)}:{line} imports {target}: {reason}"


def test_each_room_of_the_core_imports_what_it_may():
    assert {room(module) for module in BY_PACKAGE["verimargin"]} == set(ROOMS)
    assert list(faults(BY_PACKAGE["verimargin"], refused_in_the_core)) == []


@pytest.mark.parametrize("package", STRANGERS)
def test_an_adapter_knows_the_core_and_not_the_other_adapter(package):
    assert "verimargin" in {target.split(".")[0] for module in BY_PACKAGE[package] for _, target in imports_of(module)}
    assert list(faults(BY_PACKAGE[package], refused_in_an_adapter)) == []


def test_no_command_is_imported_by_another_module():
    """What two commands share is in a module of its own, which is no entry point."""
    commands = command_modules()

    def refused(module, target):
        return "it is a command" if target in commands and target != module and module not in CHAINS else ""

    assert list(faults(SOURCES, refused)) == []


def test_imports_are_found_wherever_they_are():
    source = """
import os, torch.nn as nn
from .. import __version__, metrics
from ..files.whole import whole
from . import report
def later():
    if True:
        from ..files import hparams as recipes
"""
    found = [target for _, target in sorted(imports(source, "verimargin.commands.kappa"))]
    assert sorted(found) == sorted([
        "os", "torch.nn", "verimargin", "verimargin.metrics", "verimargin.files.whole", "verimargin.commands.report",
        "verimargin.files.hparams",
    ])  # fmt: skip
    assert list(imports("from .head import step", "verimargin", is_package=True)) == [(1, "verimargin.head.step")]


@pytest.mark.parametrize(
    ("module", "target", "message"),
    [
        ("verimargin.losses.margins", "verimargin.head.step", "losses must not import head"),
        ("verimargin.scoring.ida", "verimargin.files.whole", "scoring must not import files"),
        ("verimargin.files.whole", "verimargin.commands.report", "files must not import commands"),
        ("verimargin.kappa.tracker", "verimargin", "kappa must not import the package"),
        ("verimargin.metrics", "scipy.special", "metrics must not import scipy"),
        ("verimargin.commands.score", "speechbrain", "commands must not import speechbrain"),
        ("verimargin._checks", "verimargin.losses.margins", "base must not import losses"),
        ("verimargin.head.step", "verimargin._sharding", ""),
        ("verimargin.head.step", "triton", "head must not import triton"),
        ("verimargin.head.kernels.launch", "triton.language", ""),
        ("verimargin.head.kernels.launch", "verimargin.scoring.ida", "head must not import scoring"),
        ("verimargin.files.onnx", "onnx", ""),
        ("verimargin.commands.main", "verimargin", ""),
    ],
)
def test_the_rules_of_the_core(module, target, message):
    assert refused_in_the_core(module, target) == message


@pytest.mark.parametrize(
    ("module", "target", "allowed"),
    [
        ("verimargin_speechbrain.cost", "verimargin_insightface", False),
        ("verimargin_insightface.kappa", "speechbrain.core", False),
        ("verimargin_insightface.launcher", "verimargin.commands", False),
        ("verimargin_insightface.launcher", "verimargin.commands.report", False),
        ("verimargin_insightface.commands.pack", "verimargin.commands.progress", True),
        ("verimargin_speechbrain.cost", "speechbrain", True),
        ("verimargin_speechbrain.cost", "verimargin", True),
    ],
)
def test_the_rules_of_the_adapters(module, target, allowed):
    assert (refused_in_an_adapter(module, target) == "") == allowed


def mirror(package, path):
    """The path under tests/ of the test file of a module."""
    inside = path.relative_to(PACKAGES[package])
    return (Path(package) / inside.with_name(f"test_{inside.stem.lstrip('_')}.py")).as_posix()


def test_each_module_has_its_test_file_and_each_test_file_its_module():
    wanted = {
        mirror(package, path)
        for package, folder in PACKAGES.items()
        for path in folder.rglob("*.py")
        if path.name not in ("__init__.py", "__main__.py")
    }
    found = {
        path.relative_to(TESTS).as_posix() for package in PACKAGES for path in (TESTS / package).rglob("test_*.py")
    }
    assert sorted(wanted - found) == [], "modules without a test file"
    assert sorted(found - wanted - set(WITHOUT_MODULE)) == [], "test files of no module"
    assert sorted(set(WITHOUT_MODULE) - found) == [], "exceptions that no longer exist"
    assert not set(WITHOUT_MODULE) & wanted, "exceptions that mirror a module"
