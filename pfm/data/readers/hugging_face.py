"""Hugging Face `datasets`: names of the hub, and local data sets."""

import contextlib
import difflib
from collections.abc import Iterator
from pathlib import Path

from pfm.data.config import DataConfig
from pfm.data.inputs import Storage
from pfm.data.readers.medmnist import medmnist_names
from pfm.data.readers.tables import read_tables
from pfm.data.reading import Intake, first_line
from pfm.data.splits import ClassificationData
from pfm.errors import DataError
from pfm.hub import quiet_hub


class HuggingFaceReader:
    """Any name that no other reader takes."""

    def takes(self, config: DataConfig) -> bool:
        return True

    def read(self, config: DataConfig, storage: Storage, intake: Intake) -> ClassificationData:
        import datasets

        path = Path(config.dataset).expanduser()
        with quiet_library():
            try:
                if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
                    loaded = datasets.load_from_disk(str(path))
                else:
                    loaded = datasets.load_dataset(str(path) if path.exists() else config.dataset)
            except Exception as error:  # datasets raises its own, fsspec's and pyarrow's errors here
                raise DataError(_not_found(config.dataset, path, error)) from error
        return read_tables(loaded, config, storage, intake)


def _not_found(name: str, path: Path, error: Exception) -> str:
    if path.exists():
        return f"cannot read {path} as a data set: {first_line(error)}"
    close = difflib.get_close_matches(name, [*medmnist_names(), "digits"], n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return (
        f"unknown data set {name!r}{hint} (no MedMNIST name, no .npz, no imagefolder:PATH; "
        f"Hugging Face datasets answers: {first_line(error)})"
    )


@contextlib.contextmanager
def quiet_library() -> Iterator[None]:
    """Silence the library's own bars (ours says what is decoded) and ask the hub only where there is one."""
    import datasets.config

    had_bars, was_offline = datasets.is_progress_bar_enabled(), datasets.config.HF_HUB_OFFLINE
    datasets.disable_progress_bars()
    try:
        with quiet_hub() as is_offline:
            datasets.config.HF_HUB_OFFLINE = was_offline or is_offline
            yield
    finally:
        datasets.config.HF_HUB_OFFLINE = was_offline
        if had_bars:
            datasets.enable_progress_bars()
