"""Bundles in the forms that are served, exported once for each process of a test run."""

from collections.abc import Callable
from pathlib import Path

import pytest

from making.served import export_form

Forms = Callable[[str], Path]


@pytest.fixture(scope="session")
def forms(tmp_path_factory: pytest.TempPathFactory) -> Forms:
    """A bundle by the name of its form; not to be changed."""
    folder = tmp_path_factory.mktemp("forms")

    def exported(name: str) -> Path:
        return folder / name if (folder / name).exists() else export_form(name, folder / name)

    return exported
