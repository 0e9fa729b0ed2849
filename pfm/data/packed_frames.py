"""What a packed frame of a DICOM file may cost to unpack where strangers send it; nothing is refused before `limit`.

By run lengths it is unpacked in Python, run by run, and pydicom goes on where the image is full already. A JPEG in it
may have any number of scans, each of which goes over all of it. Levels are computed with in eight bytes each, however
few they were packed in.
"""

import struct
from collections.abc import Callable
from typing import Any

RUN_LENGTHS = "1.2.840.10008.1.2.5"  # the transfer syntax
MOST_RUNS = 1 << 20  # of a frame: 0.2 seconds
LARGE_BYTES, MOST_EXPANSION = 32 << 20, 20  # unpacked; a larger frame may have so many times its packed size
MOST_SCANS = 100  # of a JPEG
SCAN, LITERAL, FILL = b"\xff\xda", 128, 129  # of a run's first byte: up to here bytes as they are, from here one again
HEAD = 64  # bytes in front of the segments: their number, and where each begins
_is_limited = [False]


def limit() -> None:
    """Refuse such frames from now on, in this process."""
    _is_limited[0] = True


def check_packed(document: Any, first_frame: Callable[[Any], bytes]) -> None:
    """Look at the frame that is going to be unpacked.

    Args:
        first_frame: of a document, as it is packed.

    Raises:
        ValueError: it takes too long.
    """
    if not _is_limited[0] or not document.file_meta.TransferSyntaxUID.is_encapsulated:
        return
    frame = first_frame(document)
    unpacked = document.Rows * document.Columns * document.SamplesPerPixel * -(-document.BitsAllocated // 8)
    if unpacked > max(LARGE_BYTES, MOST_EXPANSION * len(frame)):
        raise ValueError(f"it is a DICOM file that unpacks to more than {MOST_EXPANSION} times its size")
    if document.file_meta.TransferSyntaxUID == RUN_LENGTHS:
        _check_runs(frame, document.Rows * document.Columns)
    elif frame.count(SCAN) > MOST_SCANS:
        raise ValueError(f"it is a DICOM file with a JPEG of more than {MOST_SCANS} scans")


def _check_runs(frame: bytes, pixels: int) -> None:
    """Go through the runs of each segment, without unpacking them."""
    count, *places = struct.unpack("<16L", frame[:HEAD])
    ends = [*places[1:count], len(frame)]
    steps = 0
    for begin, end in zip(places, ends, strict=False):
        place, unpacked = begin, 0
        while place < end:
            head = frame[place]
            steps += 1
            if head < LITERAL:
                unpacked += head + 1
                place += head + 2
            elif head >= FILL:
                unpacked += 257 - head
                place += 2
            else:
                place += 1
            if steps > MOST_RUNS:
                raise ValueError(f"it is a DICOM file packed by more than {MOST_RUNS} run lengths")
            if unpacked > pixels + FILL:  # a run may end behind the last pixel
                raise ValueError("it is a DICOM file packed by run lengths of more than its image")
