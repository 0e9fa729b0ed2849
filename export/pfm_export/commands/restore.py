"""`pfm restore`: classes that were suspended are answered again."""

from pathlib import Path

import click

from pfm.commands.class_choice import ClassChoice
from pfm.commands.options import CONTEXT_SETTINGS, PATH, with_options
from pfm_export.commands.profiles import edit_profiles, profile_option


@click.command("restore", context_settings=CONTEXT_SETTINGS)
@click.argument("bundles", nargs=-1, required=True, type=PATH)
@with_options(chosen=ClassChoice)
@profile_option
def restore(bundles: tuple[Path, ...], chosen: ClassChoice, profile: str) -> None:
    """Undo `pfm suspend`: the classes are answered again for that profile."""
    edit_profiles(bundles, chosen, profile, lambda bundle, keys: bundle.restore(keys, profile=profile), must_exist=True)
