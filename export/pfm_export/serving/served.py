"""A bundle that is served: as it is on disk now, and what changes it while it is.

Several threads and processes may use one; none of them reads files that are half changed.
"""

import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pfm.classes import ClassKeys, ClassList, check_removal
from pfm.errors import BundleError
from pfm.forgetting.artifacts import Request
from pfm.forgetting.ledger import LOCK
from pfm.locks import locked
from pfm.options import expanded
from pfm_export.serving.beside import require_nothing_beside
from pfm_export.serving.bundle import Bundle
from pfm_export.serving.manifest import Manifest
from pfm_export.serving.switching import quick_switches
from pfm_export.serving.watching import open_served, stamp


class ServedBundle:
    """A bundle's folder.

    Args:
        folder: what `pfm export onnx` wrote, with any of its options.

    Raises:
        BundleError: the bundle is incomplete or was changed.
    """

    def __init__(self, folder: Path | str) -> None:
        self._folder = expanded(Path(folder)).absolute()  # the process may go to another folder
        self._lock = threading.Lock()
        self._leaving: list[tuple[str, ...]] = []  # classes whose erasure is under way
        self._seen, self._opened = open_served(self._folder)
        self._graph_hashes = self._opened.graph_hashes

    @property
    def _bundle(self) -> Bundle:
        """The bundle as it is on disk now: another process may have erased a class from it.

        Raises:
            BundleError: it was damaged since, or another one was put in its place.
        """
        if stamp(self._folder) == self._seen:
            return self._opened
        with self._lock:
            if stamp(self._folder) == self._seen:  # another thread has noticed
                return self._opened
            seen, opened = open_served(self._folder)
            if opened.graph_hashes != self._graph_hashes:
                raise BundleError(f"{self._folder} is another bundle now; open it again")
            for names in self._leaving:
                opened = opened.hiding(names)
            before, self._seen, self._opened = self._opened, seen, opened
            if not opened.has_rows_of(before):
                self._on_change()
            return opened

    @property
    def folder(self) -> Path:
        """Where the bundle is."""
        return self._folder

    @property
    def bundle(self) -> Bundle:
        """The bundle as it is now: the same object until something changes. It is for reading only."""
        return self._bundle

    @property
    def seen(self) -> Bundle:
        """The bundle as it was when its files were last looked at."""
        return self._opened

    @property
    def classes(self) -> ClassList:
        """The classes that are there, suspended or not."""
        return self._bundle.classes

    @property
    def manifest(self) -> dict[str, Any]:
        """The bundle's manifest, as read."""
        return self._bundle.manifest

    @property
    def stated(self) -> Manifest:
        """What the manifest says, with types."""
        return self._bundle.stated

    def _on_change(self) -> None:
        """What was kept of the rows as they were before goes."""

    @contextmanager
    def leaving(self, names: tuple[str, ...]) -> Generator[None]:
        """Hide classes that are being erased, here or by another process; what is on disk afterwards counts."""
        with self._lock:
            self._leaving.append(names)
            self._opened = self._opened.hiding(names)
        try:
            yield
        finally:
            with self._lock:
                self._leaving.remove(names)
            self._seen = ()  # also where the files could not be changed
            _ = self._bundle  # takes notice, and lets go of the rows

    def erase(
        self, classes: ClassKeys, *, reason: str = "", requested_by: str = "", allow_unknown: bool = False,
        centre_prompts: bool = False,
    ) -> None:  # fmt: skip
        """Remove classes from the bundle's files and from this session, for good.

        Neither this session nor another thread's call answers with them from the first moment on, before a file was
        changed. Of an exact readout whose bundle has its sums, the rows that are left are solved anew: until the call
        returns they are those of the old solution, which `Prediction.is_exact` says.

        Args:
            allow_unknown: say nothing of other files in the bundle's folder that may hold the classes, such as a backup
                of its bank. They are left as they are, and the record names them.
            centre_prompts: move the prompts that are left to mean zero, so that their sum says nothing of what went;
                some answers about other classes change.

        Raises:
            ClassNameError: an unknown class, or no class would be left.
            StorageError: a file could not be written; run it again to finish.
            NotLookedIntoError: it is done, and there are such files; `pfm forget --in_place` erases from those too
                that it can open.
        """
        bundle = self._bundle
        positions = bundle.classes.positions(classes)
        check_removal(bundle.classes, positions)
        names = tuple(bundle.classes.names[p] for p in positions)
        with self.leaving(names), quick_switches():
            _, others = bundle.erase_and_look(classes, Request(reason, requested_by, centre_prompts))
        if not allow_unknown:
            require_nothing_beside(self._folder, names, others)

    def settle(self) -> bool | None:
        """Complete an erasure that ended half way, and solve what one could not, onto disk.

        Returns:
            Whether the rows are exact then; None of a readout that never is.

        Raises:
            BundleError, StorageError: it could not be.
        """
        if self._bundle.pending:
            with locked(self._folder / LOCK):
                Bundle.open(self._folder).finish_pending()
        bundle = self._bundle
        if bundle.exact is not None and bundle.exact.has_sums and not bundle.is_exact:
            bundle.solve()
        return self._bundle.is_exact

    def suspend(self, classes: ClassKeys, *, profile: str = "default") -> None:
        """Leave classes out of a profile's answers until `restore`; no byte of them is removed."""
        self._bundle.suspend(classes, profile=profile)

    def restore(self, classes: ClassKeys, *, profile: str = "default") -> None:
        """Undo `suspend`."""
        self._bundle.restore(classes, profile=profile)
