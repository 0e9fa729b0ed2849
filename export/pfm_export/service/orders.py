"""What a worker is told by the process that starts it, and what they share; imports nothing heavy."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pfm.errors import ConfigError
from pfm.options import expanded
from pfm_export.service.config import ServeConfig
from pfm_export.serving.fields import PLAIN_NAME

READY = "ready"  # a worker's line on standard output when it takes connections
SHARED = "PROMETHEUS_MULTIPROC_DIR"  # the folder of all workers' metrics; read by prometheus_client when it is imported


@dataclass(frozen=True)
class Named:
    """A bundle, and what it is called by clients."""

    name: str
    folder: Path


def named_bundles(given: Sequence[str]) -> list[Named]:
    """From the command line: FOLDER, called like the folder, or NAME=FOLDER.

    Raises:
        ConfigError: a name that cannot be part of an address, or one that occurs twice.
    """
    found: list[Named] = []
    for text in given:
        name, is_named, folder = text.partition("=")
        path = expanded(Path(folder if is_named else text))
        name = name if is_named else path.resolve().name
        if not PLAIN_NAME.fullmatch(name):
            raise ConfigError(f"{name!r} cannot be a model's name; say NAME={path}, of letters, digits, - _ and .")
        if any(other.name == name for other in found):
            raise ConfigError(f"two bundles are called {name!r}; say NAME={path} with another name")
        found.append(Named(name, path))
    return found


@dataclass(frozen=True, kw_only=True)
class Order:
    """What a worker is told.

    Attributes:
        descriptor: of the socket that it accepts connections on.
        threads: of one pass, or the most where the configuration does not name them; 0 leaves the number to the engine.
        cores: that it may run on; empty for all.
    """

    bundles: tuple[Named, ...]
    config: ServeConfig
    descriptor: int
    threads: int
    cores: tuple[int, ...]

    def to_line(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self), default=os.fspath) + "\n"

    @classmethod
    def of_line(cls, line: str) -> "Order":
        """The reverse."""
        values: dict[str, Any] = json.loads(line)
        config: dict[str, Any] = {
            name: Path(value) if name in _PATHS and value is not None else value
            for name, value in values["config"].items()
        }
        return cls(
            bundles=tuple(Named(entry["name"], Path(entry["folder"])) for entry in values["bundles"]),
            config=ServeConfig(**config),
            descriptor=values["descriptor"],
            threads=values["threads"],
            cores=tuple(values["cores"]),
        )


_PATHS = ("tokens", "records", "tls_cert", "tls_key")


def records_folder(bundles: Sequence[Named], config: ServeConfig) -> Path:
    """Where keys and answers are kept.

    It is made when something is changed, and so long after the port is open: what can be said now is said now.

    Raises:
        ConfigError: in a bundle, with which the signing key would travel; or nothing can be written there. Where none
            is named it may be so, such as beside bundles that are mounted for reading only: then changes are refused.
    """
    first = bundles[0].folder.absolute()
    records = first.with_name(f"{first.name}.records") if config.records is None else config.records.absolute()
    for bundle in bundles:
        if records.resolve().is_relative_to(bundle.folder.resolve()):
            raise ConfigError(f"--records {records} is in a bundle, and its signing key would go wherever that goes")
    there = next(folder for folder in (records, *records.parents) if folder.exists())
    if not there.is_dir():
        raise ConfigError(f"--records {records} is for a folder, and {there} is a file; name another one")
    if config.records is not None and not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(f"--records {records}: {there} cannot be written; name another folder")
    return records


def forget_process(folder: Path, pid: int) -> None:
    """A process has ended: what it counted stays, what it had at hand does not."""
    for path in folder.glob(f"gauge_live*_{pid}.db"):
        path.unlink(missing_ok=True)
