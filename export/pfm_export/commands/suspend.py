"""`pfm suspend`: classes are left out of a profile's answers, with nothing removed."""

from pathlib import Path

import click

from pfm.commands.class_choice import ClassChoice
from pfm.commands.options import CONTEXT_SETTINGS, PATH, with_options
from pfm_export.commands.profiles import edit_profiles, profile_option


@click.command("suspend", context_settings=CONTEXT_SETTINGS)
@click.argument("bundles", nargs=-1, required=True, type=PATH)
@with_options(chosen=ClassChoice)
@profile_option
def suspend(bundles: tuple[Path, ...], chosen: ClassChoice, profile: str) -> None:
    """Leave classes out of the answers of bundles, for one profile; `pfm restore` undoes it.

    Sessions that serve the bundles follow from their next prediction on. No byte of the classes is removed.
    """
    edit_profiles(bundles, chosen, profile, lambda bundle, keys: bundle.suspend(keys, profile=profile))
    click.echo("no byte was removed: the classes are in the bundles as before, for whoever has the files")
