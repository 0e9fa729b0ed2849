"""Hugging Face `datasets`: names of the hub, and local data sets."""

import contextlib
import dataclasses
import difflib
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from pfm.data.config import DataConfig
from pfm.data.inputs import Storage
from pfm.data.readers.medmnist import medmnist_names
from pfm.data.readers.tables import read_tables
from pfm.data.reading import Intake, first_line
from pfm.data.splits import ClassificationData
from pfm.errors import DataError, HubError
from pfm.hub import COMMIT, Repository, check_hash, find_commit, is_unasked, is_unknown, quiet_hub, reason

_CARD = "README.md"  # what `datasets` asks a repository for first


class HuggingFaceReader:
    """Any name that no other reader takes."""

    source_options: ClassVar[tuple[str, ...]] = ("input_column", "label_column", "label_from")

    def takes(self, config: DataConfig) -> bool:
        return True

    def check_there(self, config: DataConfig) -> None:
        path = _local_path(config)
        if path.exists():
            return
        try:
            with quiet_library() as is_offline:
                if not (is_offline and _cache_of(config.dataset).is_dir()):
                    find_commit(Repository(config.dataset, config.data_revision, "dataset"), _CARD)
        except HubError as error:
            raise DataError(_not_found(config, path, error)) from error

    def read(self, config: DataConfig, storage: Storage, intake: Intake) -> ClassificationData:
        path, commit, notes = _local_path(config), "", ()
        with quiet_library() as is_offline:
            try:
                if path.exists():
                    loaded = _read_local(path)
                else:
                    loaded, commit = _read_hub(config, is_offline=is_offline)
                    if is_offline:
                        notes = (f"the hub was not asked; its cache has commit {commit or 'unknown'}",)
            except Exception as error:  # datasets raises its own, fsspec's and pyarrow's errors here
                raise DataError(_not_found(config, path, error)) from error
        data = read_tables(loaded, config, storage, intake)
        return dataclasses.replace(data, notes=(*data.notes, *notes), commit=commit)


def _local_path(config: DataConfig) -> Path:
    """Where the data set is; nothing is there where it is one of the hub.

    Raises:
        DataError: a path to nothing, or to a file.
    """
    path = Path(config.dataset).expanduser()
    if config.dataset.startswith((".", "/", "~")) and not path.exists():  # not a name of the hub
        raise DataError(f"no file or folder {path}; give an .npz, a folder of files or a name of the hub")
    if path.is_file():
        raise DataError(f"{path} is not a data set; a file has to be an .npz in MedMNIST's layout, and end so")
    return path


def _read_local(path: Path) -> Any:
    import datasets

    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        return datasets.load_from_disk(str(path))
    return datasets.load_dataset(str(path))


def _read_hub(config: DataConfig, *, is_offline: bool) -> tuple[Any, str]:
    """A data set of the hub, and the commit that it is of; "" where the library's cache does not say.

    Raises:
        HubError: it is not to be had at the revision that was asked for.
        Exception: what the library raises.
    """
    import datasets.config

    repository = Repository(config.dataset, config.data_revision, "dataset")
    # the library alone would take what its cache has latest where the hub fails, whatever revision was asked for
    wanted = "" if is_offline and not config.data_revision else find_commit(repository, _CARD)
    if is_offline and wanted and (kept := _prepared(config.dataset, wanted)):
        return _read_prepared(config.dataset, kept[0]), wanted
    was_prepared = bool(_prepared(config.dataset, wanted))
    try:
        loaded = datasets.load_dataset(config.dataset, revision=wanted or None)
    except Exception:
        _check_downloads(repository.name, wanted)  # a damaged file rather than what came of it
        raise
    commit = _commit_of(loaded)
    if wanted and commit != wanted:
        raise HubError(
            f"{config.dataset} is in the cache ({datasets.config.HF_DATASETS_CACHE}) at commit {commit or 'unknown'}, "
            f"not at {wanted}, and the hub does not give it"
        )
    if wanted and not was_prepared:
        _check_downloads(repository.name, wanted)
    return loaded, commit


def _commit_of(loaded: Any) -> str:
    """The commit of a loaded data set: what the library calls the folder that it prepared for it."""
    parts = list(loaded.values()) if isinstance(loaded, dict) else [loaded]
    found = {Path(file["filename"]).parent.name for part in parts for file in part.cache_files}
    return found.pop() if len(found) == 1 and all(map(COMMIT.fullmatch, found)) else ""


def _cache_of(name: str) -> Path:
    """The folder of the library's cache for a data set of the hub."""
    import datasets.config
    from datasets.naming import camelcase_to_snakecase

    *owner, own = name.split("/")
    return Path(datasets.config.HF_DATASETS_CACHE) / "___".join([*owner, camelcase_to_snakecase(own)])


def _prepared(name: str, commit: str) -> list[Path]:
    """The folders of the library's cache with a data set at a commit, one for each of its configurations."""
    found = _cache_of(name).glob(f"*/*/{commit}") if commit else ()
    return sorted(folder for folder in found if folder.is_dir())


def _read_prepared(name: str, folder: Path) -> Any:
    """What the library prepared in an earlier run; asked by name alone, it would take the latest."""
    from datasets.packaged_modules.cache.cache import Cache

    configuration, version, commit = folder.parts[-3:]
    own = name.rpartition("/")[2]
    return Cache(
        repo_id=name, dataset_name=own, config_name=configuration, version=version, hash=commit
    ).as_dataset()  # fmt: skip


def _check_downloads(name: str, commit: str) -> None:
    """The files that a data set was just prepared from are what the hub stated; what was made of others goes.

    Raises:
        HubError: they are not.
    """
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="dataset") / "snapshots" / commit
    try:
        for file in sorted(folder.rglob("*")):
            check_hash(file)
    except HubError:
        for prepared in _prepared(name, commit):
            shutil.rmtree(prepared, ignore_errors=True)
        raise


def _not_found(config: DataConfig, path: Path, error: Exception) -> str:
    if path.exists():
        return f"cannot read {path} as a data set: {first_line(error)}"
    name = config.dataset
    said = reason(error, Repository(name, config.data_revision, "dataset"))
    if not (is_unknown(error) or is_unasked(error)):
        return f"cannot load data set {name!r}: {said}"
    close = difflib.get_close_matches(name, [*medmnist_names(), "digits"], n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"unknown data set {name!r}{hint} (no MedMNIST name, no .npz, no imagefolder:PATH, and of the hub: {said})"


@contextlib.contextmanager
def quiet_library() -> Iterator[bool]:
    """Silence the library's own bars (ours says what is decoded) and ask the hub only where there is one.

    The block is told whether there is none.
    """
    import datasets.config

    had_bars, was_offline = datasets.is_progress_bar_enabled(), datasets.config.HF_HUB_OFFLINE
    verbosity = datasets.logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(logging.CRITICAL)
    try:
        with quiet_hub() as is_offline:
            datasets.config.HF_HUB_OFFLINE = was_offline or is_offline
            yield was_offline or is_offline
    finally:
        datasets.config.HF_HUB_OFFLINE = was_offline
        datasets.logging.set_verbosity(verbosity)
        if had_bars:
            datasets.enable_progress_bars()
