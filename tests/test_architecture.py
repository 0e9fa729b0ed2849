"""The order of the modules, the owner of each heavy library, and names that would shadow a library."""

import ast
import functools
import os
import subprocess
import sys
from pathlib import Path

import house

ROOT = Path(__file__).parent.parent
PACKAGES = {
    "pfm": ROOT / "pfm",
    "pfm_export": ROOT / "export" / "pfm_export",
    "pfm_bench": ROOT / "bench" / "pfm_bench",
}

# A module imports from its own room, from rooms above it in this list, and from what all share: the modules directly
# in `pfm/`. Inside a room the order is free.
ROOMS = (
    "pfm",
    "pfm.data",
    "pfm.backbones",
    "pfm.exact",
    "pfm.model",
    "pfm.evaluation",
    "pfm.training",
    "pfm.forgetting",
    "pfm.audit",
    "pfm.commands",
    "pfm_export.serving",
    "pfm_export.service",
    "pfm_export.graph",
    "pfm_export",
    "pfm_export.commands",
    "pfm_bench",
)
# the doors: they name every command, or what a notebook needs, and so stand above all rooms
DOORS = {"pfm", "pfm.cli", "pfm.train"}
# the rooms or modules that may import a heavy library; everyone else goes through them
OWNERS = {
    "transformers": ("pfm.backbones",),
    "peft": ("pfm.model.lora",),
    "datasets": ("pfm.data.readers",),
    "medmnist": ("pfm.data.readers",),
    "sklearn": ("pfm.data", "pfm.evaluation.measures"),
    "torchaudio": ("pfm.data.mel",),
    "soundfile": ("pfm.data.waves",),
    "pydicom": ("pfm.data.dicom",),
    "PIL": (
        "pfm.data.pixels",
        "pfm.data.dicom",
        "pfm.evaluation.pictures",
        "pfm_export.serving.images",
        "pfm_bench.scenarios.malformed",
        "pfm_bench.scenarios.end_to_end",
    ),
    "accelerate": ("pfm.training",),
    "matplotlib": ("pfm.evaluation.pictures",),
    "onnx": ("pfm_export.graph", "pfm_bench.measuring.runtime_product"),
    "onnxscript": ("pfm_export.graph",),
    "onnx_ir": ("pfm_export.graph",),
    "onnxruntime": (
        "pfm_export.serving.runtime",
        "pfm_export.graph.precisions",
        "pfm_bench.measuring.runtime_product",
    ),
    "openvino": ("pfm_export.serving.open_vino",),
    "safetensors": ("pfm_export.serving.bank", "pfm.backbones.hub"),
    "cryptography": ("pfm.forgetting.certificate", "pfm.forgetting.keys"),
    "tqdm": ("pfm.runlog",),
    "fastapi": ("pfm_export.service",),
    "starlette": ("pfm_export.service",),
    "uvicorn": ("pfm_export.service.worker", "pfm_export.service.connection"),
    "prometheus_client": ("pfm_export.service.metrics",),
    "yaml": ("pfm.commands.config_file",),
    "click": ("pfm.cli", "pfm.commands", "pfm_export.commands", "pfm_bench.commands"),
}
# what no module imports while it is itself imported
LATE = {"pydicom", "transformers", "peft", "datasets", "medmnist", "sklearn", "torchaudio", "matplotlib", "onnxscript"}
# what a file in `pfm/` must not be called: `accelerate launch pfm/train.py` puts that folder first on the path
SHADOWING = {
    *sys.stdlib_module_names, "accelerate", "click", "cryptography", "datasets", "evaluate", "matplotlib", "medmnist",
    "numpy", "onnx", "onnxruntime", "packaging", "peft", "PIL", "safetensors", "sklearn", "soundfile", "torch",
    "torchaudio", "tqdm", "transformers", "yaml",
}  # fmt: skip


@functools.cache
def modules() -> dict[str, ast.Module]:
    """Every module's tree, by its dotted name."""
    found = {}
    for package, folder in PACKAGES.items():
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            name = ".".join((package, *(part for part in parts if part != "__init__")))
            found[name] = house.parsed(path.read_text())
    return found


@functools.cache
def imports(tree: ast.Module) -> set[str]:
    """Everything a module imports, anywhere in it, as dotted names."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= named(node)
    return names


def named(node: ast.Import | ast.ImportFrom) -> set[str]:
    """What a statement imports, as dotted names."""
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    assert node.level == 0, f"relative import of {node.module}"
    return {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}


def room_of(name: str) -> str:
    """The innermost room of the list that a module stands in."""
    return max((room for room in ROOMS if f"{name}.".startswith(f"{room}.")), key=len)


def test_a_module_imports_only_from_its_own_room_and_those_above_it() -> None:
    for name, tree in modules().items():
        ours = {entry for entry in imports(tree) if entry.split(".")[0] in PACKAGES} if name not in DOORS else set()
        below = {entry for entry in ours if ROOMS.index(room_of(entry)) > ROOMS.index(room_of(name))}
        assert below == set(), f"{name} imports from rooms below its own"


def test_pfm_knows_nothing_of_export_and_export_nothing_of_bench() -> None:
    for name, tree in modules().items():
        packages = {imported.split(".")[0] for imported in imports(tree)}
        if name.startswith("pfm."):
            assert not packages & {"pfm_export", "pfm_bench"}, name
        if name.startswith("pfm_export"):
            assert "pfm_bench" not in packages, name


def test_each_heavy_library_has_its_owner() -> None:
    for name, tree in modules().items():
        for imported in {entry.split(".")[0] for entry in imports(tree)}:
            owners = OWNERS.get(imported, (name,))
            assert any(f"{name}.".startswith(f"{owner}.") for owner in owners), f"{name} imports {imported}"


def test_what_takes_seconds_to_load_is_imported_where_it_is_needed() -> None:
    for name, tree in modules().items():
        at_once = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        imported = {entry.split(".")[0] for node in at_once for entry in named(node)}
        assert not imported & LATE, name


def test_no_module_shadows_a_library() -> None:
    assert not {path.stem for path in PACKAGES["pfm"].glob("*.py")} & SHADOWING


SERVING = (
    "pfm_export.serving.session",
    "pfm_export.serving.bundle",
    "pfm_export.serving.kinds",
    "pfm_export.graph.form",
    "pfm_export.erasing",
    "pfm_export.graph.triton",
    "pfm_export.service.worker",
    "pfm_export.serving.sounds",
    "pfm_export.commands.forget",
    "pfm_export.commands.verify",
    "pfm_export.commands.suspend",
    "pfm_export.commands.restore",
    "pfm_export.commands.show",
    "pfm_export.showing",
    "pfm_export",
    "pfm",
    "pfm.data.waves",
    "pfm.data.decoding",
    "pfm.forgetting.certificate",
    "pfm.cli",
    "pfm.forgetting.ledger",
    "pfm.classes",
)
IMPORTS_IN_TURN = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
    heavy = {"torch", "transformers", "onnx", "soundfile"} & set(sys.modules)
    assert not heavy, f"{name} imports {', '.join(heavy)}"
"""


def test_the_serving_side_imports_no_torch() -> None:
    path = os.pathsep.join(str(ROOT / part) for part in (".", "export", "bench"))
    subprocess.run(
        [sys.executable, "-c", IMPORTS_IN_TURN, *SERVING], check=True, env={**os.environ, "PYTHONPATH": path}
    )


def test_every_public_function_and_class_is_documented() -> None:
    for name, tree in modules().items():
        assert ast.get_docstring(tree), name
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{name}.{node.name}"


def test_the_house_is_divided_as_well_as_its_counts_say() -> None:
    numbers = house.count().numbers()
    assert {name: number for name, number in numbers.items() if number > house.Counts.LIMITS[name]} == {}
