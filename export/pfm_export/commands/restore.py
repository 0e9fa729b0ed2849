"""`pfm restore`: classes that were suspended are answered again."""

from pathlib import Path

import click

from pfm.commands.options import CONTEXT_SETTINGS, PATH
from pfm_export.commands.profiles import edit_profiles, profile_option


@click.command("restore", context_settings=CONTEXT_SETTINGS)
@click.argument("bundles", nargs=-1, required=True, type=PATH)
@click.option("--classes", required=True, help="Names or numbers, separated by commas; a name wins over a number.")
@profile_option
def restore(bundles: tuple[Path, ...], classes: str, profile: str) -> None:
    """Undo `pfm suspend`: the classes are answered again for that profile."""
    edit_profiles(
        bundles, classes, profile, lambda bundle, keys: bundle.restore(keys, profile=profile), must_exist=True
    )
