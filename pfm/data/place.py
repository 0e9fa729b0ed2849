"""Where decoded inputs are kept: on the device, in host memory, on disk, or nowhere."""

from dataclasses import dataclass

import torch

from pfm.data.config import FeedConfig
from pfm.data.room import DISK_SHARE, HOST_SHARE, free_disk, free_memory, size_text

DEVICE_SHARE = 0.3  # of a GPU's free memory

_WORDS = {
    "device": "on the device",
    "host": "in host memory, once for all processes of a host",
    "disk": "in a temporary file without a name, once for all processes of a host",
    "decode": "kept nowhere, decoded again whenever they are needed",
    "cache": "in the folder of --cache",
}


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where inputs are kept.

    Attributes:
        where: "host", "disk", "decode" or "cache"; what is to go to the device waits there.
        shown: the same, or "device".
        size_bytes: of all inputs.
        reason: why.
    """

    where: str
    shown: str
    size_bytes: int
    reason: str

    def describe(self) -> str:
        """In words, with the size."""
        return f"{size_text(self.size_bytes)} {_WORDS[self.shown]} ({self.reason})"


def choose_place(size_bytes: int, config: FeedConfig, device: torch.device) -> Place:
    """Where so many bytes are kept: what the options say, or the first of device, host and disk that has room."""
    wish = config.data_on
    memory = free_memory()
    limit = config.memory_bytes if config.memory_bytes is not None else int(HOST_SHARE * memory)
    disk = free_disk()
    room = f"--data_memory {config.data_memory}" if config.data_memory else f"{size_text(memory)} of memory are free"

    def place(where: str, shown: str, reason: str) -> Place:
        return Place(where=where, shown=shown, size_bytes=size_bytes, reason=reason)

    if config.cache is not None and wish != "device" and not fits_device(size_bytes, device):
        return place("cache", "cache", f"--cache {config.cache}")
    waiting = "host" if size_bytes <= limit else "disk"
    if wish == "device":
        return place(waiting, "host" if device.type == "cpu" else "device", "--data_on device")
    if wish != "auto":
        return place(wish, wish, f"--data_on {wish}")
    if fits_device(size_bytes, device):
        return place(waiting, "device", "--data_on auto")
    if size_bytes <= limit:
        return place("host", "host", f"--data_on auto; {room}")
    if size_bytes <= DISK_SHARE * disk:
        return place("disk", "disk", f"--data_on auto; {room}, {size_text(disk)} of disk")
    return place("decode", "decode", f"--data_on auto; {room}, {size_text(disk)} of disk")


def fits_device(size_bytes: int, device: torch.device) -> bool:
    """Whether so many bytes may go to a GPU; the CPU has the host's memory."""
    return device.type == "cuda" and size_bytes < DEVICE_SHARE * torch.cuda.mem_get_info(device)[0]
