"""How bundles are served over HTTP, as options; imports nothing heavy."""

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pfm.errors import ConfigError
from pfm.options import Section, expand_paths, option
from pfm_export.serving.devices import DEVICES

LOCALHOST = "localhost"


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """Where the port is, who may ask, and what one request may cost."""

    section: ClassVar = Section.SERVICE
    host: str = option("127.0.0.1", "Address to listen on; the default is reached from this machine only.")
    port: int = option(8000, "Port to listen on; 0 takes a free one, which is printed.", minimum=0, maximum=65535)
    workers: int = option(1, "Processes that share the port; each has the model in its memory.", minimum=1, maximum=256)
    tokens: Path | None = option(
        None, "File that says which token may do what (JSON).  [default: no token is asked for]", is_path=True
    )
    records: Path | None = option(
        None,
        "Folder for the signing key, the certificates, and what was answered to which request.  "
        "[default: the first bundle's name with .records]",
        is_path=True,
    )
    tls_cert: Path | None = option(None, "Certificate chain (PEM) for HTTPS.  [default: HTTP]", is_path=True)
    tls_key: Path | None = option(None, "Its private key (PEM).", is_path=True)
    drain: float = option(30.0, "Seconds that running requests are given when the server is told to stop.", minimum=0)
    device: str = option(
        "auto",
        "Where it is computed; auto is the GPU where there is one.",
        choices=DEVICES,
        section=Section.DEVICE,
    )
    threads: int | None = option(
        None,
        "Threads of one pass on the CPU.  [default: one for a model that needs no more, else the cores, shared by the "
        "workers]",
        minimum=1, section=Section.DEVICE,
    )  # fmt: skip
    passes: int = option(
        1, "Passes of a model that run at a time in one worker, on the same threads.", minimum=1, maximum=64,
        section=Section.DEVICE,
    )  # fmt: skip
    spin: bool = option(
        False, "Let idle threads wait busily for work: faster on cores that nothing else needs.",
        is_flag=True, section=Section.DEVICE,
    )  # fmt: skip
    max_batch: int = option(
        32, "Images, or windows of sounds, of one pass and of one request.", minimum=1, section=Section.LIMITS
    )
    max_queue: int = option(
        256, "Of those that wait in one worker; whoever comes then is told to come back.",
        minimum=1, section=Section.LIMITS,
    )  # fmt: skip
    answer_within: float | None = option(
        None,
        "Seconds that an answer may take; whoever could not be answered in time, by the passes before, is told to come "
        "back.  [default: --timeout]",
        minimum=0.0001, section=Section.LIMITS,
    )  # fmt: skip
    timeout: float = option(
        10.0, "Seconds until a request that was not answered is given up.", minimum=0.001, section=Section.LIMITS
    )
    max_mib: int = option(16, "Of the body of one request.", minimum=1, maximum=1024, section=Section.LIMITS)
    max_pixels: int = option(
        25_000_000, "Of an uploaded image; larger ones are refused by their header.", minimum=1, section=Section.LIMITS
    )

    def __post_init__(self) -> None:
        expand_paths(self)
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ConfigError("HTTPS needs both --tls_cert and --tls_key")
        if self.answer_within is not None and self.answer_within > self.timeout:
            raise ConfigError(f"--answer_within {self.answer_within:g} is longer than --timeout {self.timeout:g}")
        if self.max_queue < self.max_batch:
            raise ConfigError(f"--max_queue {self.max_queue} is less than --max_batch {self.max_batch}; no batch fits")

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == LOCALHOST

    @property
    def scheme(self) -> str:
        """Of its addresses."""
        return "http" if self.tls_cert is None else "https"
