"""A bundle as a Triton model repository: its graphs, and a `config.pbtxt` for each of them.

    DIR/NAME/config.pbtxt, DIR/NAME/1/model.onnx      one graph
    DIR/NAME_trunk/…, DIR/NAME_head/…, DIR/NAME/…      trunk and head, and an ensemble that runs one after the other

Nothing of a class is written: prompts, and classifier rows where the readout has some, are inputs, so that an erasure
has nothing to do here. Whoever asks Triton sends them, out of `bank.safetensors`.

Triton batches requests of one shape, and takes `max_batch_size` above 0 to say that *every* input and output has the
batch in front. So that is only said of graphs where it is true: those whose prompts come per request, unless classifier
rows come with them, and every trunk. All others take whole batches as one request made them (`max_batch_size: 0`).

Names, types and dimensions are those that ONNX Runtime reads in the graph itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from pfm.errors import ConfigError, StorageError
from pfm.options import option
from pfm.storage import make_folder, write_bytes, write_text
from pfm_export.graph.precisions import PRECISIONS
from pfm_export.serving.bundle import Bundle
from pfm_export.serving.fields import PLAIN_NAME
from pfm_export.serving.signature import HEAD, MODEL, TOKENS, TRUNK

if TYPE_CHECKING:
    from pfm_export.serving.runtime import End

CONFIG, VERSION = "config.pbtxt", "1"
BATCH = "batch"  # what our graphs call the axis that Triton may batch over
TYPES = {
    "tensor(float)": "TYPE_FP32",
    "tensor(float16)": "TYPE_FP16",
    "tensor(int32)": "TYPE_INT32",
    "tensor(uint8)": "TYPE_UINT8",
}
WARM_UP_PROMPTS = 8  # any number does


@dataclass(frozen=True, kw_only=True)
class TritonConfig:
    """How Triton shall run the graphs."""

    max_batch_size: int = option(32, "The most rows that Triton puts into one pass, where it may batch.", minimum=1)
    queue_delay_us: int = option(500, "How long a request may wait for others, in microseconds.", minimum=0)
    instances: int = option(1, "Copies of each graph that run side by side, on each GPU or on the CPU.", minimum=1)


@dataclass(frozen=True)
class _Word:
    """A name of the schema, which stands without quotes."""

    text: str


_Field: TypeAlias = "bool | int | str | _Word | list[int] | _Message | list[_Message]"
_Message: TypeAlias = "dict[str, _Field]"


@dataclass(frozen=True)
class _Graph:
    """A graph's inputs and outputs, and what Triton shall make of them."""

    inputs: tuple["End", ...]
    outputs: tuple["End", ...]

    @property
    def can_batch(self) -> bool:
        return all(end.shape[:1] == (BATCH,) for end in (*self.inputs, *self.outputs))


def model_folders(folder: Path, name: str, *, is_split: bool, overwrite: bool = False) -> dict[str, Path]:
    """Where each graph goes, by its file in the bundle; the ensemble of trunk and head under "".

    Args:
        name: of the model in Triton.
        is_split: the bundle has trunk and head.
        overwrite: models that are there already may be replaced.

    Raises:
        ConfigError: the name is not one for a model in Triton.
        StorageError: one of the folders is in use.
    """
    if not PLAIN_NAME.fullmatch(name):
        raise ConfigError(f"{name!r} cannot be a model's name in Triton; give --name, of letters, digits, - _ and .")
    names = {TRUNK: f"{name}_trunk", HEAD: f"{name}_head", "": name} if is_split else {MODEL: name}
    folders = {file: folder / model for file, model in names.items()}
    for path in folders.values():
        if not path.exists() or (path.is_dir() and not any(path.iterdir())):
            continue
        if not overwrite:
            raise StorageError(f"{path} exists and is not empty; choose another folder, or give --overwrite")
        if not (path / CONFIG).is_file():
            raise StorageError(f"{path} is not a Triton model, so --overwrite leaves it alone; choose another folder")
    return folders


def write_repository(
    bundle: Bundle,
    folder: Path,
    config: TritonConfig | None = None,
    *,
    name: str | None = None,
    overwrite: bool = False,
) -> list[Path]:
    """Write a bundle's graphs and their configurations below `folder`, which may hold other models.

    Args:
        name: of the model in Triton.  [default: the bundle folder's]
        overwrite: replace a model of that name.

    Returns:
        The configurations written.

    Raises:
        BundleError: a graph is damaged.
        ConfigError: the name is not one for a model in Triton.
        StorageError: a model of that name is there already, or a file cannot be written.
    """
    config, name = config or TritonConfig(), bundle.folder.resolve().name if name is None else name
    folders = model_folders(folder, name, is_split=bundle.stated.signatures.is_split, overwrite=overwrite)
    graphs = {file: _read_graph(bundle, file) for file in folders if file}
    for file, graph in graphs.items():
        write_bytes(folders[file] / VERSION / MODEL, bundle.model_bytes(file))
        write_text(folders[file] / CONFIG, _text(_of_graph(folders[file].name, graph, bundle, config)))
    if "" in folders:
        make_folder(folders[""] / VERSION)  # empty as it is, Triton wants it
        steps = {folders[file].name: graph for file, graph in graphs.items()}
        write_text(folders[""] / CONFIG, _text(_of_ensemble(name, steps, config)))
    return [path / CONFIG for path in folders.values()]


def _read_graph(bundle: Bundle, file: str) -> _Graph:
    from pfm_export.serving.runtime import ends_of, load_graph

    return _Graph(*ends_of(load_graph(bundle, device="cpu", threads=1, name=file)))


def _of_graph(name: str, graph: _Graph, bundle: Bundle, config: TritonConfig) -> _Message:
    kind = "KIND_CPU" if PRECISIONS.get(bundle.stated.precision).is_for_cpus else "KIND_AUTO"
    settings: _Message = {
        "name": name,
        "backend": "onnxruntime",
        "default_model_filename": MODEL,
        "max_batch_size": config.max_batch_size if graph.can_batch else 0,
        "input": [_end(end, graph.can_batch) for end in graph.inputs],
        "output": [_end(end, graph.can_batch) for end in graph.outputs],
        # auto: on the GPUs that are there
        "instance_group": [{"count": config.instances, "kind": _Word(kind)}],
    }
    if graph.can_batch:
        settings["dynamic_batching"] = {"max_queue_delay_microseconds": config.queue_delay_us}
    sizes = [1, config.max_batch_size] if graph.can_batch else [1]
    settings["model_warmup"] = [
        {
            "name": f"batch_{size}",
            "batch_size": size,
            "inputs": [
                {"key": end.name, "value": _warm_up(end, bundle, has_batch=not graph.can_batch)} for end in graph.inputs
            ],
        }
        for size in dict.fromkeys(sizes)
    ]
    return settings


def _of_ensemble(name: str, steps: Mapping[str, _Graph], config: TritonConfig) -> _Message:
    """The trunk's tokens go to the head inside Triton; requests with different active sets share the trunk's batch."""
    trunk, head = steps.values()
    can_batch = trunk.can_batch and head.can_batch
    inputs = [*trunk.inputs, *(end for end in head.inputs if end.name != TOKENS)]
    return {
        "name": name,
        "platform": "ensemble",
        "max_batch_size": config.max_batch_size if can_batch else 0,
        # a reshape is the head's own affair
        "input": [_without_reshape(_end(end, can_batch)) for end in inputs],
        "output": [_end(end, can_batch) for end in head.outputs],
        "ensemble_scheduling": {
            "step": [
                {
                    "model_name": step,
                    "model_version": -1,
                    "input_map": [{"key": end.name, "value": end.name} for end in graph.inputs],
                    "output_map": [{"key": end.name, "value": end.name} for end in graph.outputs],
                }
                for step, graph in steps.items()
            ]
        },
    }


def _end(end: "End", can_batch: bool) -> _Message:
    """With `can_batch` Triton puts the batch in front itself."""
    dims = [-1 if isinstance(size, str) else size for size in end.shape[1 if can_batch else 0 :]]
    entry: _Message = {"name": end.name, "data_type": _Word(TYPES[end.type]), "dims": dims}
    # Triton knows no input without dimensions: a number per row is asked for as [1]
    return entry if dims else {**entry, "dims": [1], "reshape": {"shape": []}}


def _without_reshape(entry: _Message) -> _Message:
    return {key: value for key, value in entry.items() if key != "reshape"}


def _warm_up(end: "End", bundle: Bundle, *, has_batch: bool) -> _Message:
    """Zeros, also for how many of the prompts each row has."""
    prompts = WARM_UP_PROMPTS * bundle.stated.prompt_tokens
    known = {BATCH: 1, **bundle.input.sizes}
    shape = [known.get(size, prompts) if isinstance(size, str) else size for size in end.shape]
    dims = shape if has_batch else shape[1:] or [1]
    return {"data_type": _Word(TYPES[end.type]), "dims": dims, "zero_data": True}


def _text(settings: _Message) -> str:
    """Protobuf's text format."""
    return "\n".join(_lines(settings)) + "\n"


def _lines(settings: _Message, indent: str = "") -> list[str]:
    lines: list[str] = []
    for key, value in settings.items():
        messages = [value] if isinstance(value, dict) else _messages(value)
        for message in messages:
            lines += [f"{indent}{key} {{", *_lines(message, indent + "  "), f"{indent}}}"]
        if not messages:
            lines.append(f"{indent}{key}: {_scalar(value)}")
    return lines


def _messages(value: _Field) -> list[_Message]:
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def _scalar(value: _Field) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{', '.join(map(str, value))}]"
    if isinstance(value, _Word):
        return value.text
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        return f'"{escaped}"'
    return str(value)
