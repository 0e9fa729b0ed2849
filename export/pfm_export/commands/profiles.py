"""What `pfm suspend` and `pfm restore` have in common: one edit of a profile of several bundles."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pfm.classes import listed
from pfm.commands.class_choice import ClassChoice
from pfm.errors import ConfigError

if TYPE_CHECKING:
    from pfm_export.serving.bundle import Bundle

profile_option = click.option(
    "--profile", default="default", help="Whose answers; `default` counts wherever no profile is named."
)


def edit_profiles(
    folders: Sequence[Path],
    chosen: ClassChoice,
    profile: str,
    edit: "Callable[[Bundle, Sequence[str]], Bundle]",
    *,
    must_exist: bool = False,
) -> None:
    """Edit a profile of every bundle; all are looked at before one is changed.

    Args:
        edit: of one bundle, by names of classes.
        must_exist: refuse a profile that a bundle does not have.

    Raises:
        ConfigError: the profile has no name.
    """
    if not profile:
        raise ConfigError("--profile '' names nobody; give a name, or leave it out for `default`")
    from pfm_export.serving.bundle import Bundle
    from pfm_export.serving.damage import NOT_SERVED, damaged_files

    bundles = [Bundle.open(folder) for folder in folders]
    known = {str(bundle.folder): bundle.classes for bundle in bundles}
    keys = chosen.names(known)
    for bundle in bundles:
        bundle.classes.positions(keys)
        if must_exist:
            bundle.suspended(profile)
    for folder, found in zip(folders, bundles, strict=True):
        bundle = edit(found, keys)
        out = bundle.suspended(profile)
        names = [name for position, name in enumerate(bundle.classes.names) if position in out]
        click.echo(f"{folder}: profile {profile} leaves out {listed(names) or 'nothing'}")
        for said in damaged_files(bundle):
            click.echo(f"damaged: {folder}: {said}; {NOT_SERVED}")
