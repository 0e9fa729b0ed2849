"""Files that somebody made to run code, to take all memory, or to make a reader fall over; three hundred and more.

Each is written when it is asked for, and comes with the command lines that read it: one of them has to refuse it in
one line. `serve` stands for opening a session on a bundle.
"""

import io
import json
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper

from making.bundles import WIDTH, make_bundle
from making.checkpoints import trained_state
from making.images import write_npz
from pfm.forgetting import ledger
from pfm.forgetting.ledger import LEDGER
from pfm.model.checkpoint import checkpoint_bytes
from pfm.storage import sha256, sha256_bytes
from pfm_export.serving.bank import BANK
from pfm_export.serving.manifest import MANIFEST, OWN_HASH, write_manifest
from pfm_export.serving.signature import MODEL
from pfm_export.serving.writing import write_bundle

MARK = "PFM_HOSTILE_MARK"  # environment variable: the file that executed code would make
DEEP_LIST = b"[" * 200_000
DEEP_DICT = b'{"a":' * 100_000
PREPROCESS = {"kind": "image", "size": 8, "mean": [0.5] * 3, "std": [0.5] * 3, "resample": "bilinear"}
ODD: tuple[Any, ...] = (None, True, -1, 10**30, 1e400, 1.5, "x", "", [], [[]], {}, {"a": [None]}, "9" * 5000)


@dataclass(frozen=True)
class Hostile:
    """A hostile file.

    Attributes:
        write: makes it in an empty folder and returns its path.
        commands: what reads it, `{}` for its path.
    """

    name: str
    write: Callable[[Path], Path]
    commands: tuple[tuple[str, ...], ...]


class RunsCode:
    """Unpickled, it would make the file that MARK names."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (f'touch "${MARK}"',))


def hostile_files() -> list[Hostile]:
    """All of them, always the same."""
    return [
        *_manifests(), *_raw_manifests(), *_ledgers(), *_banks(), *_graphs(), *_certificates(), *_checkpoints(),
        *_archives(), *_images(), *_backbones(), *_sounds(), *_configs(),
    ]  # fmt: skip


# --- bundles ----------------------------------------------------------------------------------------

_OPEN = (("show", "{}"), ("serve", "{}"), ("forget", "--in_place", "--classes", "blue", "{}"))
_SERVE = (("serve", "{}"),)


def _bundle(folder: Path) -> Path:
    return make_bundle(folder / "b")


def _with_manifest(change: Callable[[dict[str, Any]], Any], *, with_hash: bool = True) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        bundle = _bundle(folder)
        manifest = json.loads((bundle / MANIFEST).read_bytes())
        manifest["preprocess"] = dict(PREPROCESS)
        del manifest[OWN_HASH]
        change(manifest)
        text = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
        if with_hash:
            manifest[OWN_HASH] = sha256_bytes(text.replace("Infinity", "null").encode())
        (bundle / MANIFEST).write_text(json.dumps(manifest))
        return bundle

    return write


def _put(*path: str | int, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(manifest: Any) -> None:
        for step in path[:-1]:
            manifest = manifest[step]
        manifest[path[-1]] = value

    return change


def _manifests() -> Iterator[Hostile]:
    fields: dict[tuple[str | int, ...], tuple[Any, ...]] = {
        ("classes",): (None, 3, "abc", [3], [{}], [{"id": 0}], [{"id": "0", "name": "a"}], [{"id": 0, "name": None}]),
        ("classes", 0, "id"): (None, True, -1, 10**30, 1.5, "x", [], 1),
        ("classes", 0, "name"): (None, 3, [], {}, "green"),
        ("erased",): (None, "abc", [[0, "a"]], [{"id": 0}], {}),
        ("prompt_tokens",): (None, True, 0, -1, 10**30, 1.5, "2", 3),
        ("hidden_size",): (None, 0, -6, 10**9, "6", [6], 7),
        ("readout",): (None, "another", 3, []),
        ("files",): (None, [], {}, "x", {BANK: {"sha256": "0" * 64, "size_bytes": 3}}),
        ("files", BANK): (None, [], {"sha256": 3, "size_bytes": 3}, {"sha256": "zz", "size_bytes": 1}),
        ("files", BANK, "size_bytes"): (None, -1, 0.5, 10**40, "9"),
        ("files", "../../etc/passwd"): ({"sha256": "0" * 64, "size_bytes": 1},),
        ("files", "/etc/passwd"): ({"sha256": "0" * 64, "size_bytes": 1},),
        ("files", "a\\..\\b"): ({"sha256": "0" * 64, "size_bytes": 1},),
        ("graphs",): (None, [], {"../model.onnx": {"inputs": [], "outputs": []}}, {MODEL: {"inputs": "x"}}, {MODEL: 1}),
        ("profiles",): ([], "x", {"w": 3}, {"w": ["a"]}, {"w": [-1]}),
        ("ledger_head",): (None, 3, "x", "0" * 63, []),
        ("unknown_below",): ("x", [], 10**400, None),
        ("unknown_score",): ("x", [], {}),
        ("form",): ([], {"precision": 3}),
        ("input",): (None, [], {}, {"name": 3}, "pixel_values"),
        ("version",): (None, 2, "1", [], 10**30),
        ("preprocess", "size"): (0, -8, 10**9, "8", None, 8.5),
        ("preprocess", "mean"): (None, 3, [0.5], ["a"] * 3, [None] * 3),
        ("preprocess", "std"): ([0, 0, 0], [-1, 1, 1], "abc"),
        ("preprocess", "resample"): ("lanczos", 3, None),
    }
    for path, values in fields.items():
        for value in values:
            told = json.dumps(value)[:30]
            name = f"manifest {'.'.join(map(str, path))} = {told}"
            yield Hostile(name, _with_manifest(_put(*path, value=value)), _OPEN)
    for field in ("classes", "erased", "prompt_tokens", "hidden_size", "files", "ledger_head", "input", "preprocess"):
        yield Hostile(f"manifest without {field}", _with_manifest(lambda m, f=field: m.pop(f)), _OPEN)
    yield Hostile("manifest with another hash", _with_manifest(lambda m: None, with_hash=False), _OPEN)


def _replaced(name: str, content: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        bundle = _bundle(folder)
        (bundle / name).write_bytes(content)
        return bundle

    return write


def _in_place_of(name: str, make: Callable[[Path], Any]) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        bundle = _bundle(folder)
        (bundle / name).unlink()
        make(bundle / name)
        return bundle

    return write


def _raw_manifests() -> Iterator[Hostile]:
    whole = b'{"format":"pfm-bundle","version":1,"x":%s}'
    for name, content in (
        ("deep lists", whole % (DEEP_LIST + b"]" * 200_000)), ("deep and open", whole % DEEP_LIST),
        ("deep objects", whole % (DEEP_DICT + b"1" + b"}" * 100_000)), ("NaN", whole % b"NaN"),
        ("a number of a million digits", whole % (b"9" * 1_000_000)), ("a key twice", whole % b'{"a":1,"a":2}'),
        ("not UTF-8", whole % b'"\xff\xfe"'), ("70 MiB", whole % (b" " * (70 << 20) + b"1")), ("nothing", b""),
        ("a list", b"[]"), ("a lone surrogate", whole % b'"\\ud800"'), ("zeros", b"\0" * 1000),
    ):  # fmt: skip
        yield Hostile(f"manifest of {name}", _replaced(MANIFEST, content), _OPEN[:2])
    for name in (MANIFEST, LEDGER, BANK):
        yield Hostile(f"a pipe in place of {name}", _in_place_of(name, os.mkfifo), _OPEN[:2])
        yield Hostile(f"a folder in place of {name}", _in_place_of(name, lambda p: p.mkdir()), _OPEN[:2])
        endless = _in_place_of(name, lambda p: p.symlink_to("/dev/zero"))
        yield Hostile(f"/dev/zero in place of {name}", endless, _OPEN[:2])


def _with_record(record: dict[str, Any]) -> Callable[[Path], Path]:
    """A bundle whose ledger's chain holds, and whose line is odd."""

    def write(folder: Path) -> Path:
        bundle = _bundle(folder)
        sealed = ledger.append(bundle / LEDGER, record)
        manifest = json.loads((bundle / MANIFEST).read_bytes())
        manifest["preprocess"] = PREPROCESS
        write_manifest(bundle, {**manifest, "ledger_head": sealed["hash"]})
        return bundle

    return write


def _ledgers() -> Iterator[Hostile]:
    good = {"action": "erase", "classes": [{"id": 9, "name": "z"}], "file": BANK}
    good |= {"sha256_before": "0" * 64, "sha256_after": "1" * 64}
    for key, value in (
        ("classes", None), ("classes", [{}]), ("classes", [3]), ("classes", [{"id": "x", "name": 3}]),
        ("sha256_after", 3), ("sha256_before", "no"), ("files", 3), ("files", [None]), ("begun", []), ("file", {}),
    ):  # fmt: skip
        yield Hostile(f"ledger line with {key} = {value}", _with_record({**good, key: value}), _SERVE)
    for name, content in (
        ("deep lists", DEEP_LIST + b"\n"), ("deep objects", DEEP_DICT + b"1" + b"}" * 100_000 + b"\n"),
        ("a list", b"[]\n"), ("zeros", b"\0" * 100 + b"\n"), ("a cut line", b'{"a":1'), ("NaN", b"NaN\n"),
    ):  # fmt: skip
        yield Hostile(f"ledger of {name}", _replaced(LEDGER, content), _OPEN[:2])


def _with_bank(content: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        bundle = _bundle(folder)
        (bundle / BANK).write_bytes(content)
        manifest = json.loads((bundle / MANIFEST).read_bytes())
        manifest["files"][BANK] = {"sha256": sha256(bundle / BANK), "size_bytes": len(content)}
        write_manifest(bundle, manifest)
        return bundle

    return write


def _safetensors(header: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + data


def _banks() -> Iterator[Hostile]:
    def entry(dtype: str = "F32", shape: Any = (2, WIDTH), offsets: Any = (0, 48)) -> bytes:
        tensor = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        return json.dumps({f"prompt.{i}": tensor for i in range(3)}).encode()

    for name, content in (
        ("a header of 2^63 bytes", struct.pack("<Q", 2**63) + b"{}"), ("a header of 2^40", struct.pack("<Q", 2**40)),
        ("nothing", b""), ("three bytes", b"abc"), ("a header of deep lists", _safetensors(DEEP_LIST)),
        ("10^12 numbers", _safetensors(entry(shape=[10**12], offsets=[0, 4 * 10**12]))),
        ("a shape that overflows", _safetensors(entry(shape=[2**40, 2**40]), b"\0" * 48)),
        ("a negative shape", _safetensors(entry(shape=[-1, 6]), b"\0" * 48)), ("bf16", _safetensors(entry("BF16"))),
        ("an unknown type", _safetensors(entry("F31"), b"\0" * 48)), ("overlaps", _safetensors(entry(), b"\0" * 48)),
        ("a pickle", pickle.dumps(RunsCode())), ("a list for a header", _safetensors(b"[]")),
        ("offsets back to front", _safetensors(entry(offsets=[48, 0]), b"\0" * 48)),
    ):  # fmt: skip
        yield Hostile(f"bank of {name}", _with_bank(content), _OPEN[:2])


def _external(tensor: TensorProto, location: str) -> TensorProto:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "16")):
        tensor.external_data.add(key=key, value=value)
    return tensor


def _model(*nodes: Any, initializers: tuple[TensorProto, ...] = (), functions: tuple[Any, ...] = ()) -> bytes:
    value = helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, [4])
    out = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [4])
    graph = helper.make_graph(list(nodes), "g", [value], [out], initializer=list(initializers))
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("own", 1)]
    return helper.make_model(graph, opset_imports=imports, functions=list(functions)).SerializeToString()


def _with_graph(content: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        random = np.random.default_rng(0)
        bank: dict[str, np.ndarray] = {}
        for i in range(3):
            bank |= {f"prompt.{i}": random.standard_normal((2, WIDTH), dtype=np.float32)}
            bank |= {
                f"weight.{i}": random.standard_normal(WIDTH, dtype=np.float32),
                f"bias.{i}": np.array(i, np.float32),
            }
        manifest = json.loads((_bundle(folder) / MANIFEST).read_bytes())
        manifest = {k: v for k, v in manifest.items() if k not in (OWN_HASH, "files", "ledger_head")}
        bank = {name: np.asarray(array, np.float32) for name, array in bank.items()}
        (folder / "w").mkdir()
        (folder / "w" / "weights.bin").write_bytes(b"\0" * 16)
        write_bundle(folder / "w", graphs={MODEL: content}, bank=bank, manifest={**manifest, "preprocess": PREPROCESS})
        return folder / "w"

    return write


def _graphs() -> Iterator[Hostile]:
    def tensor(location: str = "weights.bin") -> TensorProto:
        return _external(helper.make_tensor("w", TensorProto.FLOAT, [4], b"\0" * 16, raw=True), location)

    add = helper.make_node("Add", ["pixel_values", "w"], ["logits"])
    constant = helper.make_node("Constant", [], ["w"], value=tensor())
    branch = helper.make_graph([constant], "then", [], [helper.make_tensor_value_info("w", TensorProto.FLOAT, [4])])
    inner = helper.make_node("If", ["pixel_values"], ["logits"], then_branch=branch, else_branch=branch)
    function = helper.make_function("own", "f", ["x"], ["y"], [constant, helper.make_node("Add", ["x", "w"], ["y"])],
                                    [helper.make_opsetid("", 20)])  # fmt: skip
    sparse = onnx.SparseTensorProto(values=tensor(), dims=[4])
    sparse_node = helper.make_node("Constant", [], ["w"], sparse_value=sparse)
    engine = helper.make_node("EPContext", ["pixel_values"], ["logits"], domain="com.microsoft", embed_mode=0,
                              ep_cache_context="/etc/passwd")  # fmt: skip
    nested = b"\x0a\x00"
    for _ in range(200):  # a graph in an attribute of a node of a graph, and so on
        for key in (0x32, 0x2A, 0x0A):
            nested = bytes([key]) + _varint(len(nested)) + nested
    whole = _model(add, initializers=(helper.make_tensor("w", TensorProto.FLOAT, [4], b"\0" * 16, raw=True),))
    for name, content in (
        *((f"external data at {where}", _model(add, initializers=(tensor(where),)))
          for where in ("weights.bin", "../../etc/passwd", "/etc/passwd", "/dev/zero", "")),
        ("external data in a constant", _model(constant, add)), ("external data in a branch", _model(inner)),
        ("external data in a function", _model(helper.make_node("f", ["pixel_values"], ["logits"], domain="own"),
                                               functions=(function,))),
        ("external data in a sparse tensor", _model(sparse_node, add)), ("a compiled engine elsewhere", _model(engine)),
        ("graphs within graphs", b"\x3a" + _varint(len(nested)) + nested), ("zeros", b"\0" * 1000),
        ("half of one", whole[: len(whole) // 2]), ("a field of 2^60 bytes", b"\x3a" + _varint(2**60)),
        ("a number without an end", b"\x38" + b"\xff" * 100), ("a pickle", pickle.dumps(RunsCode())), ("nothing", b""),
    ):  # fmt: skip
        yield Hostile(f"graph of {name}", _with_graph(content), _SERVE)


def _varint(value: int) -> bytes:
    found = bytearray()
    while True:
        found.append(value & 0x7F | (0x80 if value > 0x7F else 0))
        value >>= 7
        if not value:
            return bytes(found)


# --- certificates -------------------------------------------------------------------------------------


def _file(name: str, content: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    return write


def _certificates() -> Iterator[Hostile]:
    for name, content in (
        ("deep lists", DEEP_LIST), ("deep objects", DEEP_DICT), ("nothing", b""), ("null", b"null\n"), ("NaN", b"NaN"),
        ("70 MiB", b'"' + b"x" * (70 << 20) + b'"'), ("a key that is text", b'{"public_key":"zz","signature":"00"}\n'),
        ("short keys", b'{"format":"pfm-certificate","public_key":"00","signature":"00"}\n'),
        ("a signature that is a list", b'{"public_key":"00","signature":[]}\n'),
    ):  # fmt: skip
        yield Hostile(f"certificate of {name}", _file("c.json", content), (("verify", "{}", "{}"), ("show", "{}")))


# --- checkpoints --------------------------------------------------------------------------------------

_READ = (("show", "{}"), ("forget", "--in_place", "--classes", "blue", "{}"), ("eval", "--ckpt", "{}", "--cpu"))


def _saved(content: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def _whole() -> dict[str, Any]:
    return torch.load(io.BytesIO(checkpoint_bytes(trained_state())), weights_only=True)


def _zip(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def _zip_bomb(name: str, size: int) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        with zipfile.ZipFile(folder / name, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            archive.writestr("archive/version", b"3\n")
            with archive.open("archive/data.pkl", "w", force_zip64=True) as file:
                for _ in range(size >> 20):
                    file.write(b"\0" * (1 << 20))
        return folder / name

    return write


def _checkpoints() -> Iterator[Hostile]:
    def changed(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], Path]:
        def write(folder: Path) -> Path:
            content = _whole()
            change(content)
            (folder / "x.pt").write_bytes(_saved(content))
            return folder / "x.pt"

        return write

    deep: Any = []
    for _ in range(300):
        deep = [deep]
    doubled: Any = ["x"]
    for _ in range(40):
        doubled = [doubled, doubled]
    vast = torch.zeros(1).expand(10**12)
    for name, change in (
        ("a tensor of 10^12 numbers over one", _put("model_state_dict", "bank.prompts", value=vast)),
        ("a moment of 10^12 numbers", _put("optimizer_state_dict", "bank.prompts", "exp_avg", value=vast)),
        ("a sparse tensor", _put("model_state_dict", "bank.prompts", value=torch.eye(4).to_sparse())),
        ("a tensor that is not there", _put("model_state_dict", "bank.prompts", value=torch.zeros(4, device="meta"))),
        ("deep lists", _put("run", value={"a": deep})),
        ("lists doubled forty times", _put("run", value={"a": doubled})),
        ("a layer count of 10^9", _put("backbone", "config", "num_hidden_layers", value=10**9)),
        ("a width of 10^9", _put("backbone", "config", "hidden_size", value=10**9)),
        ("a negative width", _put("backbone", "config", "hidden_size", value=-32)),
        ("an unknown readout", _put("model", "readout", value="another")),
        ("a readout that is a list", _put("model", "readout", value=[])),
        ("an option that is not known", _put("model", "exec", value="x")),
        ("a path for a backbone", _put("backbone", "model_name", value=["../.."])),
        ("a size of 10^12 px", _put("preprocess", "kind", value={})),
    ):  # fmt: skip
        yield Hostile(f"checkpoint with {name}", changed(change), _READ[:2])
    for field in ("classes", "erased", "seed", "run", "backbone", "model_state_dict", "optimizer_state_dict", "pfm"):
        for value in (None, 3.5, [[None]]):
            told = f"checkpoint with {field} = {value}"
            yield Hostile(told, changed(_put(field, value=value)), _READ[:2])
        yield Hostile(f"checkpoint without {field}", changed(lambda c, f=field: c.pop(f)), _READ[:2])
    code = pickle.dumps(RunsCode())
    for name, content in (
        ("a pickle", code), ("a torch file with code", _saved({"format": "pfm-checkpoint", "x": RunsCode()})),
        ("an old torch file with code", _saved(RunsCode(), _use_new_zipfile_serialization=False)),
        ("a zip with a pickle", _zip({"archive/data.pkl": code, "archive/version": b"3\n"})),
        ("a zip without members", _zip({})), ("nothing", b""), ("zeros", b"\0" * 4096), ("a list", _saved([1])),
        ("half of one", checkpoint_bytes(trained_state())[:3000]), ("a zip of other things", _zip({"a": b"b"})),
    ):  # fmt: skip
        yield Hostile(f"checkpoint of {name}", _file("x.pt", content), _READ)
    yield Hostile("checkpoint that is a zip bomb", _zip_bomb("x.pt", 3 << 29), _READ)
    yield Hostile("checkpoint that is a pipe", lambda f: (os.mkfifo(f / "x.pt"), f / "x.pt")[1], _READ[:1])


# --- data ---------------------------------------------------------------------------------------------

_TRAIN = ("train", "--model_name", "scratch:vit_digits", "--epochs", "1", "--cpu", "--save_dir", "{folder}/run")


def _archives() -> Iterator[Hostile]:
    command = ((*_TRAIN, "--dataset", "{}"),)

    def member(content: bytes, compression: int = zipfile.ZIP_STORED) -> Callable[[Path], Path]:
        def write(folder: Path) -> Path:
            path = write_npz(folder / "whole.npz")
            with zipfile.ZipFile(path) as archive:
                kept = {name: archive.read(name) for name in archive.namelist()}
            kept["train_images.npy"] = content
            (folder / "a.npz").write_bytes(_zip(kept, compression))
            return folder / "a.npz"

        return write

    def header(shape: str, dtype: str = "|u1", data: bytes = b"\0" * 64) -> bytes:
        text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}"
        text = text.ljust(118) + "\n"
        return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + data

    objects = io.BytesIO()
    np.save(objects, np.array([RunsCode()], dtype=object), allow_pickle=True)
    for name, content in (
        ("10^12 elements", header("(1000000000000, 1, 1)")), ("10^9 elements", header("(1000, 1000, 1000)")),
        ("a shape that overflows", header("(4294967296, 4294967296, 4294967296)")), ("objects", objects.getvalue()),
        ("a negative shape", header("(-64, 1, 1)")), ("an element of 10^12 bytes", header("(1,)", "|V1000000000000")),
        ("a header of code", header("__import__('os').system('true')")), ("text", b"not an array"), ("nothing", b""),
        ("another format", b"\x93NUMPY\x09\x00" + b"\0" * 100), ("a shape of text", header("'abc'")),
        ("a deep shape", header("(" * 90 + ")" * 90)), ("a type that is a list", header("(64,)", "O")),
        ("a header of 60 kB", b"\x93NUMPY\x01\x00" + struct.pack("<H", 60000) + b"(" * 60000),
    ):  # fmt: skip
        yield Hostile(f"npz with {name}", member(content), command)

    def bomb(folder: Path) -> Path:
        side = 22_000
        with zipfile.ZipFile(write_npz(folder / "whole.npz")) as archive:
            kept = {name: archive.read(name) for name in archive.namelist() if name != "train_images.npy"}
        with zipfile.ZipFile(folder / "a.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for name, content in kept.items():
                archive.writestr(name, content)
            with archive.open("train_images.npy", "w", force_zip64=True) as file:
                file.write(header(f"(3, {side}, {side})", data=b""))
                for _ in range(3 * side):
                    file.write(b"\0" * side)
        return folder / "a.npz"

    yield Hostile("npz that unpacks to 1.4 GiB", bomb, command)
    yield Hostile("npz that is a pickle", _file("a.npz", pickle.dumps(RunsCode())), command)


def _png(width: int, height: int, data: bytes = b"", kind: int = 2) -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", data or zlib.compress(b"\0" * 100))
        + chunk(b"IEND", b"")
    )


def _images() -> Iterator[Hostile]:
    def folder_of(name: str, content: bytes) -> Callable[[Path], Path]:
        def write(folder: Path) -> Path:
            for split in ("train", "test"):
                for label in ("a", "b"):
                    _file(f"data/{split}/{label}/good.png", _png(8, 8, zlib.compress(b"\0" * 25 * 8)))(folder)
            _file(f"data/train/a/{name}", content)(folder)
            return folder / "data"

        return write

    command = ((*_TRAIN, "--dataset", "imagefolder:{}"),)
    bmp = b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, 10**6, 10**6, 1, 24, *[0] * 6)
    gif = b"GIF89a" + struct.pack("<HH", 65535, 65535) + b"\x80\0\0" + b"\0\0\0\xff\xff\xff,"
    gif += struct.pack("<HHHH", 0, 0, 65535, 65535) + b"\0\x02\x02L\x01\0;"
    tiff = b"II*\0\x08\0\0\0" + struct.pack("<H", 65535) + b"\xff" * 200
    for name, file, content in (
        ("a PNG of 10^10 pixels", "x.png", _png(100_000, 100_000)),
        ("a PNG of 2^62", "x.png", _png(2**31 - 1, 2**31 - 1)),
        ("a PNG of 10^8 pixels", "x.png", _png(10_000, 10_000)), ("a PNG without pixels", "x.png", _png(0, 0)),
        ("a PNG cut off", "x.png", _png(8, 8)[:40]), ("a BMP of 10^12 pixels", "x.bmp", bmp),
        ("a GIF of 2^32 pixels", "x.gif", gif), ("a TIFF of tags", "x.tif", tiff),
        ("a pickle", "x.png", pickle.dumps(RunsCode())),
        ("text", "x.jpg", b"hello"), ("a JPEG cut off", "x.jpg", b"\xff\xd8\xff\xe0\0\x10JFIF\0"),
        ("a PPM of 10^12 pixels", "x.ppm", b"P6 1000000 1000000 255\n"),
    ):  # fmt: skip
        yield Hostile(f"folder with {name}", folder_of(file, content), command)


def _sounds() -> Iterator[Hostile]:
    def wav(rate: int = 8000, channels: int = 1, bits: int = 16, size: int = 2**31, data: bytes = b"\0" * 64) -> bytes:
        form = struct.pack("<HHIIHH", 1, channels, rate & 0xFFFFFFFF, 0, 2, bits)
        return (
            b"RIFF" + struct.pack("<I", size) + b"WAVEfmt \x10\0\0\0" + form + b"data" + struct.pack("<I", size) + data
        )

    command = (("train", "--model_name", "scratch:ast_mini", "--epochs", "1", "--cpu", "--save_dir", "{folder}/run",
                "--dataset", "audiofolder:{}"),)  # fmt: skip
    for name, content in (
        ("65535 channels", wav(channels=65535)), ("no channels", wav(channels=0)), ("a rate of 2^32 - 1", wav(-1)),
        ("a rate of 0", wav(0)), ("samples of 999 bits", wav(bits=999)), ("nothing", b""),
        ("a pickle", pickle.dumps(RunsCode())),
        ("an odd chunk", b"RIFF\xff\xff\xff\xffWAVEfmt \xff\xff\xff\xff"),
    ):  # fmt: skip
        yield Hostile(f"folder with a sound of {name}", _file("data/train/a/x.wav", content), command)


# --- backbones and options ----------------------------------------------------------------------------

_CONFIG = {
    "model_type": "vit", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48,
    "image_size": 8, "patch_size": 4, "num_channels": 3,
}  # fmt: skip


def _backbones() -> Iterator[Hostile]:
    command = (
        ("train", "--dataset", "digits", "--epochs", "1", "--cpu", "--save_dir", "{folder}/run", "--model_name", "{}"),
    )

    def folder_of(**files: bytes) -> Callable[[Path], Path]:
        def write(folder: Path) -> Path:
            for name, content in files.items():
                _file(f"m/{name.replace('__', '.')}", content)(folder)
            return folder / "m"

        return write

    def config(**changes: Any) -> bytes:
        return json.dumps({**_CONFIG, **changes}).encode()

    code = f"import os\nos.system('touch \"${MARK}\"')\n".encode()
    own = {"auto_map": {"AutoConfig": "own.Own", "AutoModel": "own.Own"}}
    auto = {"AutoImageProcessor": "own.Own", "AutoFeatureExtractor": "own.Own"}
    weights = _safetensors(
        json.dumps({"x": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}}).encode()
    )
    for name, files in (
        ("code of its own", {"config__json": config(model_type="own", **own), "own__py": code}),
        ("code beside a known model", {"config__json": config(**own), "own__py": code}),
        ("code for the processor", {"config__json": config(), "own__py": code,
                                    "preprocessor_config__json": json.dumps({"auto_map": auto}).encode()}),
        ("weights that are code", {"config__json": config(), "pytorch_model__bin": _saved(RunsCode())}),
        ("weights that are a pickle", {"config__json": config(), "pytorch_model__bin": pickle.dumps(RunsCode())}),
        ("weights of 10^12 numbers", {"config__json": config(), "model__safetensors": weights}),
        ("a header of 2^62", {"config__json": config(), "model__safetensors": struct.pack("<Q", 2**62)}),
        ("an index that leads elsewhere", {"config__json": config(), "model__safetensors__index__json": json.dumps(
            {"metadata": {}, "weight_map": {"x": "../../../etc/passwd"}}).encode()}),
        ("no weights", {"config__json": config()}), ("a deep config", {"config__json": DEEP_LIST}),
        ("a deep object", {"config__json": DEEP_DICT + b"1" + b"}" * 100_000}), ("a list", {"config__json": b"[]"}),
        ("a config of nothing", {"config__json": b""}), ("a config that is not UTF-8", {"config__json": b'"\xff"'}),
        ("a deep processor", {"config__json": config(), "preprocessor_config__json": DEEP_LIST}),
        ("a processor that is a list", {"config__json": config(), "preprocessor_config__json": b"[1]"}),
        *((f"a processor with {key} = {value}", {"config__json": config(), "preprocessor_config__json": json.dumps(
            {key: value}).encode()}) for key, value in (("image_mean", 3), ("image_std", [0, 0, 0]), ("resample", {}),
                                                        ("image_mean", ["a"] * 3), ("rescale_factor", "x"))),
        *((f"{key} = {str(value)[:12]}", {"config__json": config(**{key: value})}) for key, value in (
            ("hidden_size", 10**9), ("hidden_size", -1), ("hidden_size", "32"), ("num_hidden_layers", 10**9),
            ("num_hidden_layers", None), ("num_attention_heads", 0), ("image_size", 10**9), ("patch_size", 0),
            ("intermediate_size", [48]), ("num_channels", 10**6), ("model_type", 3), ("model_type", "bert"),
            ("hidden_act", "system"), ("num_hidden_layers", 900), ("hidden_size", 30_000))),
    ):  # fmt: skip
        yield Hostile(f"backbone with {name}", folder_of(**files), command)


def _configs() -> Iterator[Hostile]:
    command = (("train", "--dataset", "digits", "--config", "{}"),)
    laughs = b"a0: &a0 [x, x]\n" + b"".join(b"a%d: &a%d [*a%d, *a%d]\n" % (i, i, i - 1, i - 1) for i in range(1, 40))
    for name, content in (
        ("Python objects", b'!!python/object/apply:os.system ["true"]'), ("laughs", laughs),
        ("deep lists", b"[" * 20_000),
        ("an object for a value", b'epochs: !!python/object/apply:os.system ["true"]'), ("zeros", b"\0" * 100),
        ("2 MiB", b"#" * (2 << 20)),
    ):  # fmt: skip
        yield Hostile(f"options of {name}", _file("o.yaml", content), command)
