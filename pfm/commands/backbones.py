"""`pfm backbones`: which backbones there are, how large they are, under which licence, and what for."""

import json

import click

from pfm.commands.options import CONTEXT_SETTINGS

HEADINGS = ("family", "model (hub id)", "preset", "input", "tokens", "width x layers", "M weights", "GFLOP", "licence",
            "good at")  # fmt: skip
SOURCES = ("model (hub id)", "licence", "read on")
UNCHECKED = "not checked"


@click.command("backbones", context_settings=CONTEXT_SETTINGS)
@click.option("--sources", is_flag=True, help="The page that each licence was read on.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of a table.")
def backbones(sources: bool, as_json: bool) -> None:
    """Which backbones there are: families, presets, sizes, licences, and what each is good at.

    A model is named with --model_name ID, its shape without weights with --model_name scratch:PRESET. Licences are
    as stored copies of the pages of --sources had them in November 2026; the card is what holds.
    """
    from pfm.model.backbone_table import backbone_rows

    rows = backbone_rows()
    if as_json:
        click.echo(json.dumps([row.to_dict() for row in rows], indent=1))
        return
    lines: list[tuple[str, ...]] = [SOURCES if sources else HEADINGS]
    for row in rows:
        licence = f"{row.licence}, gated" if row.is_gated else row.licence
        if sources:
            if row.model_name:
                lines.append((row.model_name, licence, row.source or UNCHECKED))
            continue
        lines.append((
            row.family, row.model_name or "-", row.preset, row.input, f"{row.tokens:,}", f"{row.width} x {row.layers}",
            f"{row.million_weights:g}", f"{row.gflop:g}", licence or "-", row.good_at or "-",
        ))  # fmt: skip
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    for line in lines:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    if not sources:
        click.echo("\nMore in timm's layout: any vit_*, deit*, deit3*; see docs/training.md.")
