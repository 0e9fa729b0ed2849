"""`imagefolder:PATH`: PATH/train/<class>/…, PATH/test/<class>/…, or PATH/<class>/…; or with labels in file names."""

from pathlib import Path

from pfm.data.config import DataConfig
from pfm.data.images import ImageStorage
from pfm.data.inputs import Storage
from pfm.data.readers.hugging_face import quiet_library
from pfm.data.readers.tables import read_tables
from pfm.data.reading import Intake, first_line
from pfm.data.splits import ClassificationData
from pfm.errors import DataError


class ImageFolderReader:
    """Folders that the builder `imagefolder` of `datasets` reads."""

    def takes(self, config: DataConfig) -> bool:
        return config.dataset.startswith(ImageStorage.folder_prefix)

    def read(self, config: DataConfig, storage: Storage, intake: Intake) -> ClassificationData:
        import datasets

        folder = existing_folder(config, ImageStorage.folder_prefix)
        with quiet_library():
            try:
                loaded = datasets.load_dataset("imagefolder", data_dir=str(folder.resolve()), drop_labels=False)
            except Exception as error:  # datasets raises its own, fsspec's and pyarrow's errors here
                raise DataError(f"cannot read {folder} as an image folder: {first_line(error)}") from error
        return read_tables(loaded, config, storage, intake)


def existing_folder(config: DataConfig, prefix: str) -> Path:
    """The folder behind the prefix.

    Raises:
        DataError: it is not there.
    """
    folder = Path(config.dataset.removeprefix(prefix)).expanduser()
    if not folder.is_dir():
        raise DataError(f"no folder {folder}; {prefix}PATH wants PATH/train/<class>/… or PATH/<class>/…")
    return folder
