"""What a sample is to the byte, as its source has it: of a file its bytes, of an array its row; nothing is decoded.

So a digest depends neither on the libraries that decode nor on what else the data set holds.
"""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from pfm.data.reading import FilesToRead, first_line
from pfm.data.rows import Rows, RowSource


class FromFiles:
    """Rows that were files, which can be asked for once more; see `pfm.data.rows.RowSource`.

    Args:
        source: of the rows.
        files: that they were decoded from.
        kept: (N,) which of them.
    """

    def __init__(self, source: RowSource, files: FilesToRead, kept: torch.Tensor) -> None:
        self.source = source
        self.files = files
        self.kept = kept
        self.shape = source.shape
        self.dtype = source.dtype

    def rows(self, index: torch.Tensor) -> torch.Tensor:
        return self.source.rows(index)

    def batches(self, indices: Sequence[torch.Tensor], ahead: int) -> Iterator[torch.Tensor]:
        return self.source.batches(indices, ahead)

    def content(self, row: int) -> bytes | None:
        """SHA-256 of the file that a row was; None where the source has no file of it.

        Raises:
            DataError: it cannot be read any more.
        """
        place = int(self.kept[row])
        try:
            found = self.files.load(place)
            if isinstance(found, Path):
                with found.open("rb") as file:
                    return hashlib.file_digest(file, "sha256").digest()
        except (OSError, ValueError) as error:
            raise self.files.cannot("read", place, first_line(error)) from error
        return hashlib.sha256(found).digest() if isinstance(found, bytes) else None


def content_of(inputs: torch.Tensor, place: int) -> bytes:
    """SHA-256 of a sample.

    Args:
        inputs: (N, …) as stored.

    Raises:
        DataError: its file cannot be read any more.
    """
    if isinstance(inputs, Rows) and isinstance(inputs.source, FromFiles):
        found = inputs.source.content(int(inputs.places[place]))
        if found is not None:
            return found
    row = inputs[place].cpu().contiguous().numpy()
    return hashlib.sha256(f"{row.dtype.str} {row.shape}\n".encode() + row.tobytes()).digest()
