"""The Hugging Face hub, asked quietly, and not at all where it cannot be reached."""

import contextlib
import logging
import os
import socket
from collections.abc import Iterator
from urllib.parse import urlparse


@contextlib.contextmanager
def quiet_hub() -> Iterator[bool]:
    """Silence the hub client's remarks, and spare the user its half minute of retries when there is no network.

    Without a network the client works from its cache alone, as with HF_HUB_OFFLINE=1; the block is told whether.
    """
    from huggingface_hub import constants

    logger = logging.getLogger("huggingface_hub")
    level, was_offline = logger.level, constants.HF_HUB_OFFLINE
    logger.setLevel(logging.ERROR)
    constants.HF_HUB_OFFLINE = was_offline or not _is_reachable(constants.ENDPOINT)
    try:
        yield constants.HF_HUB_OFFLINE
    finally:
        logger.setLevel(level)
        constants.HF_HUB_OFFLINE = was_offline


def _is_reachable(endpoint: str) -> bool:
    """Whether the host's name resolves; behind a proxy that is the proxy's business."""
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True
    try:
        socket.getaddrinfo(urlparse(endpoint).hostname, 443)
    except OSError:
        return False
    return True
