"""The order of the modules, the owner of each heavy library, and names that would shadow a library."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = {
    "pfm": ROOT / "pfm",
    "pfm_export": ROOT / "export" / "pfm_export",
    "pfm_bench": ROOT / "bench" / "pfm_bench",
}

# a module imports only from rows above its own; within a row nothing imports another
ORDER: list[set[str]] = [
    {"pfm"},
    {"pfm.errors"},
    {
        "pfm.storage",
        "pfm.options",
        "pfm.command_options",
        "pfm.classes",
        "pfm.pixels",
        "pfm.waves",
        "pfm.reading",
        "pfm.file_names",
        "pfm.sound_folders",
        "pfm.hub",
        "pfm.sharding",
    },
    {
        "pfm.ledger",
        "pfm.runlog",
        "pfm.mapped",
        "pfm.device",
        "pfm.draws",
        "pfm.objective",
        "pfm.bank",
        "pfm.lora",
        "pfm.augment",
        "pfm.dropout",
        "pfm.interrupt",
        "pfm.throughput",
    },
    {"pfm.certificate"},
    {"pfm.images", "pfm.sounds"},
    {"pfm.inputs", "pfm.sound_augment"},
    {"pfm.data", "pfm.backbone"},
    {"pfm.model", "pfm.flops", "pfm.launch", "pfm.npz_files", "pfm.hub_data"},
    {"pfm.checkpoint", "pfm.optim", "pfm.feed", "pfm.loading", "pfm.views"},
    {"pfm.forgetting", "pfm.evaluation", "pfm.abstention"},
    {"pfm.step", "pfm.pictures", "pfm.saving"},
    {"pfm.trainer"},
    {"pfm.commands"},
    {"pfm.audit"},
    {
        "pfm.audit.figures",
        "pfm.audit.lira",
        "pfm.audit.rmia",
        "pfm.audit.closed_form",
        "pfm.audit.subject",
        "pfm.audit.verdict",
        "pfm.audit.groups",
    },
    {"pfm.audit.thresholds", "pfm.audit.resurrection", "pfm.audit.probe", "pfm.audit.rivals", "pfm.audit.page"},
    {"pfm.audit.answers", "pfm.audit.membership", "pfm.audit.inside", "pfm.audit.removal", "pfm.audit.judging"},
    {"pfm.audit.protocol"},
    {"pfm.audit.scrubbing"},
    {"pfm_export"},
    {"pfm_export.bundle"},
    {
        "pfm_export.runtime",
        "pfm_export.form",
        "pfm_export.inputs",
        "pfm_export.hearing",
        "pfm_export.hub_files",
        "pfm_export.fusion",
    },
    {"pfm_export.runner", "pfm_export.intake", "pfm_export.frontend", "pfm_export.precision", "pfm_export.triton"},
    {"pfm_export.session", "pfm_export.parity", "pfm_export.forms", "pfm_export.accuracy"},
    {"pfm_export.graph", "pfm_export.erasing"},
    {"pfm_export.commands", "pfm_export.forget_commands", "pfm_export.audit_commands"},
    {"pfm_bench"},
    {"pfm_bench.stats", "pfm_bench.targets", "pfm_bench.plain", "pfm_bench.random_bundle"},
    {"pfm_bench.latency", "pfm_bench.scenarios"},
    {"pfm_bench.report", "pfm_bench.roofline"},
    {"pfm_bench.serving_report"},
    {"pfm_bench.compare", "pfm_bench.serving"},
    {"pfm_bench.workbench"},
    {"pfm_bench.training", "pfm_bench.forgetting"},
    {"pfm_bench.evaluating"},
    {"pfm_bench.commands"},
    {"pfm_bench.story"},
    {"pfm_bench.demo"},
    {"pfm.cli"},
    {"pfm.train"},
]
RANK = {name: rank for rank, names in enumerate(ORDER) for name in names}

# the modules that may import a heavy library; everyone else goes through them
OWNERS = {
    "transformers": {"pfm.backbone"},
    "peft": {"pfm.lora"},
    "datasets": {"pfm.hub_data"},
    "medmnist": {"pfm.npz_files", "pfm.hub_data"},
    "sklearn": {"pfm.data", "pfm.loading"},
    "torchaudio": {"pfm.sounds"},
    "soundfile": {"pfm.waves"},
    "accelerate": {"pfm.step", "pfm.launch", "pfm.trainer"},
    "matplotlib": {"pfm.pictures"},
    "onnx": {
        "pfm_export.forms",
        "pfm_export.intake",
        "pfm_export.frontend",
        "pfm_export.precision",
        "pfm_export.fusion",
    },
    "onnxscript": {"pfm_export.fusion"},
    "onnx_ir": {"pfm_export.fusion"},
    "onnxruntime": {"pfm_export.runtime", "pfm_export.precision"},
    "tqdm": {"pfm.runlog"},
    "PIL": {"pfm.pixels", "pfm_export.inputs"},
    "safetensors": {"pfm_export.bundle"},
    "cryptography": {"pfm.certificate"},
    "click": {
        "pfm.command_options",
        "pfm.cli",
        "pfm.commands",
        "pfm_export.commands",
        "pfm_export.forget_commands",
        "pfm_export.audit_commands",
        "pfm_bench.commands",
        "pfm_bench.demo",
    },
}
# what a file in `pfm/` must not be called: `accelerate launch pfm/train.py` puts that folder first on the path
SHADOWING = {
    *sys.stdlib_module_names, "accelerate", "click", "cryptography", "datasets", "evaluate", "matplotlib", "medmnist",
    "numpy", "onnx", "onnxruntime", "packaging", "peft", "PIL", "safetensors", "sklearn", "soundfile", "torch",
    "torchaudio", "tqdm", "transformers",
}  # fmt: skip


def modules() -> dict[str, Path]:
    found = {}
    for package, folder in PACKAGES.items():
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            name = ".".join((package, *(part for part in parts if part != "__init__")))
            found[name] = path
    return found


def imports(path: Path) -> set[str]:
    """Everything a module imports, anywhere in it, as dotted names."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return names


def test_every_module_has_its_place_in_the_order() -> None:
    assert set(modules()) == set(RANK)


@pytest.mark.parametrize("name", sorted(RANK))
def test_a_module_imports_only_what_stands_before_it(name: str) -> None:
    ours = {imported for imported in imports(modules()[name]) if imported in RANK and imported != name}
    # `from pfm import ledger` names the package too, which stands first
    assert {imported for imported in ours if RANK[imported] >= RANK[name]} == set()


def test_pfm_knows_nothing_of_export_and_export_nothing_of_bench() -> None:
    for name, path in modules().items():
        packages = {imported.split(".")[0] for imported in imports(path)}
        if name.startswith("pfm."):
            assert not packages & {"pfm_export", "pfm_bench"}, name
        if name.startswith("pfm_export"):
            assert "pfm_bench" not in packages, name


def test_each_heavy_library_has_its_owner() -> None:
    for name, path in modules().items():
        for imported in {entry.split(".")[0] for entry in imports(path)}:
            if imported in OWNERS:
                assert name in OWNERS[imported], f"{name} imports {imported}"


def test_no_module_shadows_a_library() -> None:
    assert not {path.stem for path in PACKAGES["pfm"].glob("*.py")} & SHADOWING


@pytest.mark.parametrize(
    "module",
    [
        "pfm_export.session",
        "pfm_export.bundle",
        "pfm_export.erasing",
        "pfm_export.triton",
        "pfm_export.hearing",
        "pfm_export.forget_commands",
        "pfm.waves",
        "pfm.certificate",
        "pfm.cli",
        "pfm.ledger",
        "pfm.classes",
    ],
)
def test_the_serving_side_imports_no_torch(module: str) -> None:
    code = f"import {module}, sys; assert not {{'torch', 'transformers', 'onnx', 'soundfile'}} & set(sys.modules)"
    path = os.pathsep.join(str(ROOT / part) for part in (".", "export", "bench"))
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": path})


def test_every_public_function_and_class_is_documented() -> None:
    for name, path in modules().items():
        tree = ast.parse(path.read_text())
        assert ast.get_docstring(tree), name
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{name}.{node.name}"
