"""DICOM files as grey levels or colours, through `pydicom` (`pip install 'pfm[dicom]'`); knows no torch.

Levels are those after the file's own rescaling (in CT, Hounsfield units), which is what `--depth LOW:HIGH` speaks of.
Where no window is given, the file's own is taken, or else all that its bits can say.
"""

import contextlib
import struct
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pfm.data.limits import Counted
from pfm.data.packed_frames import check_packed

_MAGIC, _MAGIC_AT = b"DICM", 128
WINDOW, INVERTED, FRAMES = "pfm_window", "pfm_inverted", "pfm_frames"  # what is told of an image in its `info`
# what pydicom raises for a file that is damaged, lacks what an image needs, or is packed in a way it cannot unpack
_DAMAGED = (
    AttributeError, IndexError, KeyError, NotImplementedError, OSError, RuntimeError, TypeError, ValueError,
    struct.error,
)  # fmt: skip


class DicomError(ValueError):
    """A file that is DICOM and is not read, for a reason that is said in words."""


def is_dicom(source: Path | bytes) -> bool:
    """Whether a file says that it is DICOM."""
    end = _MAGIC_AT + len(_MAGIC)
    if isinstance(source, bytes):
        return source[_MAGIC_AT:end] == _MAGIC
    with source.open("rb") as file:
        return file.read(end)[_MAGIC_AT:] == _MAGIC


def ending_of(path: Path) -> str:
    """A file's ending in small letters; `.dcm` of a DICOM file that has none, or whose name ends with a number."""
    ending = path.suffix.lower()
    if ending.strip(".0123456789"):  # what stands behind the last dot of 1.2.840.10008.7 is not an ending
        return ending
    try:
        return ".dcm" if path.is_file() and is_dicom(path) else ending
    except OSError:
        return ending


def load_dicom() -> None:
    """Load what reads DICOM, where it is installed, so that the first file need not wait for it."""
    with contextlib.suppress(ImportError):
        import pydicom.pixels.processing
        import pydicom.pixels.utils  # noqa: F401


def open_dicom(source: Path | bytes) -> Image.Image:
    """A DICOM file's first frame: mode F with its levels, or RGB.

    Raises:
        DicomError: it cannot be read, or `pydicom` is not installed.
    """
    try:
        document = _document(source)
        frames = int(getattr(document, "NumberOfFrames", None) or 1)
        _check_size(document)
        check_packed(document, _first_packed)
        image = _in_colour(document) if document.SamplesPerPixel > 1 or _is_palette(document) else _grey(document)
    except DicomError:
        raise
    except _DAMAGED as error:
        raise DicomError(f"it is a DICOM file that cannot be read: {_first_line(error)}") from error
    image.info[FRAMES] = frames
    return image


def patient_of(source: Path) -> str:
    """The patient's id, or "" for a file that is not DICOM or does not say.

    Raises:
        DicomError: it cannot be read, or `pydicom` is not installed.
    """
    if not is_dicom(source):
        return ""
    try:
        document = _document(source, specific_tags=["PatientID"], stop_before_pixels=True)
    except DicomError:
        raise
    except _DAMAGED as error:
        raise DicomError(f"it is a DICOM file that cannot be read: {_first_line(error)}") from error
    return str(getattr(document, "PatientID", "") or "")


def _document(source: Path | bytes, **options: Any) -> Any:
    try:
        import pydicom
        from pydicom.errors import InvalidDicomError
        from pydicom.filereader import _read_file_meta_info, read_preamble
        from pydicom.uid import DeflatedExplicitVRLittleEndian
    except ImportError as error:
        raise DicomError("it is a DICOM file; to read those, pip install 'pfm[dicom]'") from error
    try:
        with Counted(source) if isinstance(source, bytes) else source.open("rb") as file:
            read_preamble(file, False)
            if _read_file_meta_info(file).get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
                raise DicomError("it is a DICOM file that is deflated as a whole, to a size that it does not say")
            file.seek(0)
            return pydicom.dcmread(file, **options)
    except InvalidDicomError as error:
        raise DicomError(f"it is a DICOM file that cannot be read: {_first_line(error)}") from error


def _check_size(document: Any) -> None:
    most = 2 * (Image.MAX_IMAGE_PIXELS or 0)  # where Pillow refuses an image
    if most and document.Rows * document.Columns > most:
        raise DicomError(f"it has {document.Columns} x {document.Rows} pixels, which is too large to be safe")


def _first_packed(document: Any) -> bytes:
    from pydicom.encaps import get_frame

    return get_frame(document.PixelData, 0, number_of_frames=int(getattr(document, "NumberOfFrames", None) or 1))


def _is_palette(document: Any) -> bool:
    return document.PhotometricInterpretation == "PALETTE COLOR"


def _frame(document: Any, **options: Any) -> np.ndarray:
    from pydicom.pixels.utils import pixel_array

    return pixel_array(document, index=0, **options)


def _in_colour(document: Any) -> Image.Image:
    """RGB; YBR is converted by pydicom on the way."""
    from pydicom.pixels.processing import apply_color_lut

    pixels = _frame(document)
    if _is_palette(document):
        pixels = apply_color_lut(pixels, document)
    if pixels.dtype != np.uint8:
        bits = 16 if _is_palette(document) else document.BitsStored
        pixels = np.round(pixels * (255 / (2**bits - 1))).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(pixels[..., :3]))


def _grey(document: Any) -> Image.Image:
    """Levels after rescaling, with the window and the direction in which they run."""
    from pydicom.pixels.processing import apply_modality_lut

    levels = np.asarray(apply_modality_lut(_frame(document), document), np.float32)
    image = Image.fromarray(levels)
    image.info[WINDOW] = _window(document) or _whole_range(document, levels)
    image.info[INVERTED] = document.PhotometricInterpretation == "MONOCHROME1"
    return image


def _window(document: Any) -> tuple[float, float] | None:
    """The first window of the file, by the standard's formula for linear ones (PS3.3, C.11.2.1.2)."""
    centre, width = (_first(getattr(document, name, None)) for name in ("WindowCenter", "WindowWidth"))
    if centre is None or width is None or width < 1:
        return None
    if getattr(document, "VOILUTFunction", "LINEAR") == "LINEAR":
        centre, width = centre - 0.5, max(width - 1, 1.0)
    return centre - width / 2, centre + width / 2


def _whole_range(document: Any, levels: np.ndarray) -> tuple[float, float]:
    """All that the stored bits can say, rescaled; of a table of levels, those that there are."""
    if "ModalityLUTSequence" in document:
        low, high = float(levels.min()), float(levels.max())
        return low, max(high, low + 1)
    bits = document.BitsStored
    lowest, highest = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if document.PixelRepresentation else (0, 2**bits - 1)
    slope, intercept = (float(getattr(document, f"Rescale{what}", None) or plain) for what, plain in _PLAIN)
    ends = sorted((lowest * slope + intercept, highest * slope + intercept))
    return ends[0], ends[1]


_PLAIN = (("Slope", 1), ("Intercept", 0))


def _first(value: Any) -> float | None:
    """Of a number, or of several."""
    if value is None or value == "":
        return None
    return float(value[0] if hasattr(value, "__getitem__") and not isinstance(value, str) else value)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
