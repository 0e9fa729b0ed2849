"""What a trace depends on beside the model: our own code, and the versions of what traces."""

import hashlib
import platform
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
CODE = ("pfm", "export", "tests/making")
TRACERS = ("torch", "torchvision", "torchaudio", "transformers", "peft", "numpy", "onnx", "onnx-ir", "onnxscript")


def sources_sha256() -> str:
    """Of every file of code, and of the versions."""
    digest = hashlib.sha256(repr([(name, version(name)) for name in TRACERS]).encode())
    digest.update(f"{platform.platform()} {platform.python_version()}".encode())
    for path in sorted(path for folder in CODE for path in (ROOT / folder).rglob("*.py")):
        digest.update(f"{path.relative_to(ROOT)} {path.stat().st_size}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()
