"""A transport whose writes are gathered: what is written in one go of the event loop is sent at once, such as the head
and the body of an answer, as one packet.

A client is woken once for it, and the thread lets go of the interpreter once.
"""

import asyncio


class Joined:
    """A transport whose writes of one turn of the loop leave together.

    Args:
        transport: that is written to.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._parts: list[bytes] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """As of transports."""
        if not self._parts:
            self._loop.call_soon(self._send)
        self._parts.append(data)

    def write_whole(self, data: bytes) -> None:
        """The same of what nothing is to follow soon."""
        self._send()
        self._transport.write(data)

    def close(self) -> None:
        """As of transports: what was written goes out first."""
        self._send()
        self._transport.close()

    def _send(self) -> None:
        if self._parts:
            whole = b"".join(self._parts)
            self._parts.clear()
            self._transport.write(whole)
