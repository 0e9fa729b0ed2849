"""Where a picture, a sound, a log or a data set ends by its own structure: what stands behind that could be anything.

Each function takes the whole file and gives the number of bytes that belong to it, or None where it does not follow its
format. Nothing is decoded. What a format lets stand inside of it (comments, the pixels themselves) is not looked at.
"""

import mmap
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from pfm.errors import StorageError, explain

Ending = Callable[[mmap.mmap | bytes], int | None]

MOST_PADDING = 1 << 16  # zeros behind a picture or sound, as some devices leave them


def is_whole(path: Path, ending: Ending) -> bool:
    """Whether a file ends where its content does, zeros aside.

    Raises:
        StorageError: it cannot be read.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return ends_itself(content, ending)
    except ValueError:  # an empty file cannot be mapped
        return False
    except OSError as error:
        raise StorageError(f"cannot read {path}: {explain(error)}; make it readable, or take it away") from error


def ends_itself(content: mmap.mmap | bytes, ending: Ending) -> bool:
    """The same of what is in a file, or of a part of one."""
    try:
        end = ending(content)
        return end is not None and len(content) - end <= MOST_PADDING and not content[end:].strip(b"\0")
    except (struct.error, IndexError, ValueError):  # it breaks off, or a length leads out of it
        return False


# --- pictures -----------------------------------------------------------------------------------------


def png_end(content: mmap.mmap | bytes) -> int | None:
    """Chunks of a length, a name, the content and a checksum, the last of which is IEND."""
    at = 8
    while at < len(content):
        length, name = struct.unpack_from(">I4s", content, at)
        at += 12 + length
        if name == b"IEND":
            return at if length == 0 else None
    return None


_NEXT_MARKER = re.compile(rb"\xff+[^\x00\xd0-\xd7\xff]")  # in a scan: not a stuffed zero, not a restart


def jpeg_end(content: mmap.mmap | bytes) -> int | None:
    """Segments of a marker and a length; scans, which go on to the next marker; the last marker is EOI."""
    at = 2
    while content[at] == 0xFF:
        marker = content[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        at += 2
        if marker == 0xD9:
            return at
        if marker == 0x01 or 0xD0 <= marker <= 0xD7:  # without a length
            continue
        at += struct.unpack_from(">H", content, at)[0]
        if marker == 0xDA:
            found = _NEXT_MARKER.search(content, at)
            if found is None:
                return None
            at = found.start()
    return None


def gif_end(content: mmap.mmap | bytes) -> int | None:
    """Blocks of blocks; the last is a semicolon."""
    at = 13 + _colours(content[10])
    while True:
        block = content[at]
        if block == 0x3B:
            return at + 1
        if block == 0x21:  # an extension and what it is of
            at += 2
        elif block == 0x2C:  # place and size of an image, colours, least size of a code
            at += 10 + _colours(content[at + 9]) + 1
        else:
            return None
        while content[at]:
            at += 1 + content[at]
        at += 1


def _colours(flags: int) -> int:
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0


_TIFF_SIZES = (0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4)
_TIFF_OFFSETS = {273: 279, 324: 325, 513: 514}  # where pixels are, and how many bytes each
_TIFF_FOLDERS = {330, 34665, 34853, 40965}  # tags that lead to further folders
_MOST_FOLDERS = 10_000


def tiff_end(content: mmap.mmap | bytes) -> int | None:
    """Folders of tags, which say where everything is; it ends with whatever is last."""
    order = "<" if content[:2] == b"II" else ">"
    waiting, seen, end = [struct.unpack_from(f"{order}I", content, 4)[0]], set[int](), 8
    while waiting:
        at = waiting.pop()
        if at == 0 or at in seen:
            continue
        seen.add(at)
        (count,) = struct.unpack_from(f"{order}H", content, at)
        if len(seen) > _MOST_FOLDERS:
            return None
        values: dict[int, tuple[int, ...]] = {}
        for entry in range(at + 2, at + 2 + 12 * count, 12):
            tag, form, number = struct.unpack_from(f"{order}HHI", content, entry)
            if not 0 < form < len(_TIFF_SIZES):
                return None
            size, place = _TIFF_SIZES[form] * number, entry + 8
            if size > 4:
                (place,) = struct.unpack_from(f"{order}I", content, place)
            end = max(end, place + size)
            if end > len(content):
                return None
            if tag in {*_TIFF_OFFSETS, *_TIFF_OFFSETS.values(), *_TIFF_FOLDERS} and form in (3, 4, 13):
                values[tag] = struct.unpack_from(f"{order}{number}{'H' if form == 3 else 'I'}", content, place)
        for places, sizes in _TIFF_OFFSETS.items():
            parts = zip(values.get(places, ()), values.get(sizes, ()), strict=True)
            end = max(end, *(place + size for place, size in parts), 0)
        waiting += [place for tag in _TIFF_FOLDERS for place in values.get(tag, ())]
        waiting += struct.unpack_from(f"{order}I", content, at + 2 + 12 * count)
        end = max(end, at + 6 + 12 * count)
    return end


def riff_end(content: mmap.mmap | bytes) -> int:
    """One chunk of a length, even; a stream that was not measured states more than there is."""
    return min(len(content), 8 + (stated := int.from_bytes(content[4:8], "little")) + stated % 2)


# --- sounds -------------------------------------------------------------------------------------------

_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}  # by version
_KBITS = {
    (1, 1): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),  # by MPEG-1 or not, and layer
    (1, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (0, 1): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (0, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (0, 3): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
}  # the layers as a header has them: 1 is layer III, 3 is layer I


def mp3_end(content: mmap.mmap | bytes) -> int | None:
    """A tag in front, frames whose length follows from their header, tags behind."""
    at = 0
    while content[at : at + 3] == b"ID3":
        high, *rest = content[at + 6 : at + 10]
        size = (high << 21) | (rest[0] << 14) | (rest[1] << 7) | rest[2]
        at += 10 + size + (10 if content[at + 5] & 0x10 else 0)
    first = at
    while at < len(content):
        length = _frame_length(content[at : at + 4])
        if length is None:
            break
        at += length
    if at == first or at > len(content):
        return None
    if content[at : at + 8] == b"APETAGEX":
        at += 32 + struct.unpack_from("<I", content, at + 12)[0]
    return at + 128 if content[at : at + 3] == b"TAG" else at


def _frame_length(header: bytes) -> int | None:
    if len(header) < 4 or header[0] != 0xFF or header[1] < 0xE0:
        return None
    version, layer = header[1] >> 3 & 3, header[1] >> 1 & 3
    bits, rate, padding = header[2] >> 4, header[2] >> 2 & 3, header[2] >> 1 & 1
    if version == 1 or layer == 0 or rate == 3 or not 0 < bits < 15:
        return None
    per_second = 1000 * _KBITS[int(version == 3), layer][bits - 1] / _RATES[version][rate]
    if layer == 3:
        return 4 * (int(12 * per_second) + padding)
    return int((72 if layer == 1 and version != 3 else 144) * per_second) + padding


def ogg_end(content: mmap.mmap | bytes) -> int | None:
    """Pages, each with the lengths of its parts in front."""
    at = 0
    while content[at : at + 4] == b"OggS":
        parts = content[at + 26]
        at += 27 + parts + sum(content[at + 27 : at + 27 + parts])
    return at if at <= len(content) else None


def _crc_table(polynomial: int) -> tuple[int, ...]:
    table: list[int] = []
    for value in range(256):
        crc = value << 8
        for _ in range(8):
            crc = (crc << 1) ^ (polynomial if crc & 0x8000 else 0)
        table.append(crc & 0xFFFF)
    return tuple(table)


_FLAC_CRC = _crc_table(0x8005)
_LONGEST_FRAME = 1 << 17  # where the file does not say
_FLAC_FRAME = re.compile(rb"\xff[\xf8\xf9]")


def flac_end(content: mmap.mmap | bytes) -> int | None:
    """Frames, whose lengths are not written down: the last one's checksum must be the last thing of the file."""
    longest = int.from_bytes(content[15:18], "big") or _LONGEST_FRAME
    padding = content[-MOST_PADDING:]
    zeros = len(padding) - len(padding.rstrip(b"\0"))
    tail = content[max(42, len(content) - longest - zeros) :]  # zeros behind a checksum leave it as it is
    for found in reversed(list(_FLAC_FRAME.finditer(tail))):
        crc = 0
        for byte in tail[found.start() :]:
            crc = (crc << 8 & 0xFFFF) ^ _FLAC_CRC[crc >> 8 ^ byte]
        if crc == 0:
            return len(content)
    return None


# --- logs and data ------------------------------------------------------------------------------------


def events_end(content: mmap.mmap | bytes) -> int | None:
    """Records of a length, its checksum, an event and its checksum; the last may break off, where a run was killed."""
    at = 0
    while at < len(content):
        length, checksum = struct.unpack_from("<QI", content, at)
        if checksum != _masked_crc(content[at : at + 8]):
            return None
        at += 16 + length
    return min(at, len(content))


def _masked_crc(values: bytes) -> int:
    """CRC-32C, turned and shifted as TensorFlow writes it."""
    crc = 0xFFFFFFFF
    for byte in values:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def has_only_members(path: Path) -> bool:
    """Whether a zip file has nothing but its members, one behind the other, and its table of contents."""
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        at, size = 0, path.stat().st_size
        for member in sorted(archive.infolist(), key=lambda member: member.header_offset):
            if member.header_offset != at or member.flag_bits & 8:  # a length behind the content: nobody writes so here
                return False
            file.seek(at)
            name, extra = struct.unpack_from("<HH", file.read(30), 26)
            at += 30 + name + extra + member.compress_size
        file.seek(at)
        table = file.read(size - at)
    entries = sum(
        46 + len(member.orig_filename.encode()) + len(member.extra) + len(member.comment)
        for member in archive.infolist()
    )
    ends = {22: table[-22:-18] == b"PK\x05\x06", 98: table[entries : entries + 4] == b"PK\x06\x06"}
    return table[:4] == b"PK\x01\x02" and ends.get(len(table) - entries, False)


def whole_number_arrays(path: Path) -> Iterator[bool]:
    """Of each .npy file in an archive, whether it has whole numbers and nothing behind them; nothing else is read."""
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            with archive.open(member) as file:
                version = np.lib.format.read_magic(file)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, dtype = read(file)
                count = int(np.prod(shape, dtype=object)) if shape else 1
                yield dtype.kind in "biu" and file.tell() + count * dtype.itemsize == member.file_size


BROKEN = (
    zipfile.BadZipFile,
    OSError,
    ValueError,
    NotImplementedError,
    RuntimeError,
    struct.error,
    zlib.error,
    IndexError,
)
