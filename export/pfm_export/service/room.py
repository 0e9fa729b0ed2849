"""How many bytes of bodies are in memory, and how many of one client's that are still on their way.

A body that is there is gone when its request is answered. One that comes slowly is there for as long as it may take, so
that a client could hold all the room with bodies that it does not end. What is still coming of one client's is
therefore at most as much as is free: half of the room for one alone, a third for each of two that take turns. Whoever
comes later finds half of what was left, and nobody has to be told to let go of anything.

(Dynamic thresholds, by which switches share their memory among queues: Choudhury and Hahne, IEEE/ACM Transactions on
Networking 6 (2), 1998.)
"""

from dataclasses import dataclass


@dataclass(kw_only=True)
class Held:
    """What is in memory of one request's body.

    Attributes:
        whose: client, in the server's own words.
        size: bytes.
        coming: of them, as long as more is to come.
    """

    whose: str = ""
    size: int = 0
    coming: int = 0


class Room:
    """For the bodies of all requests; in the thread of the event loop alone.

    Args:
        most: bytes.

    Attributes:
        held: bytes that are in memory.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._coming: dict[str, int] = {}
        self.held = 0

    def has_room(self, size: int = 0, *, coming_of: str | None = None) -> bool:
        """Whether so many bytes more may be in memory.

        Args:
            coming_of: whose body they are of, where more of it is to come.
        """
        free = self._most - self.held - size
        return free >= (0 if coming_of is None else self._coming.get(coming_of, 0) + size)

    def add(self, body: Held, size: int, *, is_whole: bool) -> bool:
        """So many bytes more of a body are there, all the same; whether they may be.

        Args:
            is_whole: nothing of it is to come any more.
        """
        body.size += size
        self.held += size
        if is_whole:
            self._settle(body)
            return self.has_room()
        body.coming += size
        self._coming[body.whose] = self._coming.get(body.whose, 0) + size
        return self.has_room(coming_of=body.whose)

    def let_go(self, body: Held) -> None:
        """Nothing of it is in memory any more."""
        self._settle(body)
        self.held -= body.size
        body.size = 0

    def _settle(self, body: Held) -> None:
        if body.coming:
            left = self._coming.pop(body.whose) - body.coming
            body.coming = 0
            if left:
                self._coming[body.whose] = left
