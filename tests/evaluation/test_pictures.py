"""Pictures can be read on a page of any colour, and at half their size."""

import io
from pathlib import Path

from PIL import Image

from pfm.evaluation.measure_pictures import _short
from pfm.evaluation.pictures import (
    Curve,
    _within,
    as_png,
    draw_bars,
    draw_curves,
    draw_forgetting,
    new_figure,
    use_plain_log_scale,
)

ENTRY = {"forget_mean": 0.1, "forget_std": 0.05, "retain_mean": 0.98, "retain_std": 0.01}


def opened(png: bytes) -> Image.Image:
    return Image.open(io.BytesIO(png)).convert("RGBA")


def check_ground(picture: Image.Image) -> None:
    """White at its edges all around, and opaque everywhere."""
    width, height = picture.size
    alpha = picture.getchannel("A").getextrema()
    assert alpha == (255, 255)
    inside = picture.convert("RGB").point(lambda value: 255 - value).getbbox()
    assert inside is not None
    assert min(inside[0], inside[1], width - inside[2], height - inside[3]) >= 8


def test_every_kind_of_picture_has_a_ground_of_its_own_and_room_around_it(tmp_path: Path) -> None:
    draw_forgetting({"readout cls": {"1": ENTRY, "5": ENTRY}}, tmp_path / "f.png", num_classes=10, title="digits")
    curve = Curve([1, 2, 3], [0.1, 0.5, 0.9], low=[0, 0.4, 0.8], high=[0.2, 0.6, 1.0])
    pictures = (
        (tmp_path / "f.png").read_bytes(),
        draw_curves({"panel": {"line": curve}}, xlabel="n", ylabel="share", ticks=True),
        draw_bars({"before": {"layer 1": 0.5}, "after": {"layer 1": 0.4}}, ylabel="share"),
    )
    for png in pictures:
        assert len(png) < 150 * 1024
        check_ground(opened(png))


def test_a_name_that_no_font_here_can_write_is_drawn_without_a_word() -> None:
    figure = new_figure(2, 1)
    figure.text(0.1, 0.5, "\N{CJK UNIFIED IDEOGRAPH-9CE5} \N{CUNEIFORM SIGN A}")
    assert as_png(figure)  # a warning would be an error


def test_error_bars_end_where_shares_do() -> None:
    below, above = _within([2.0, 84.5, 99.0, 50.0], [5.0, 20.0, 3.0, float("nan")])
    assert below == [2.0, 20.0, 3.0, 0.0]
    assert above == [5.0, 15.5, 1.0, 0.0]


def test_a_logarithmic_axis_has_plain_numbers() -> None:
    axes = new_figure(4, 3).subplots()
    axes.plot([1, 2], [40, 900])
    use_plain_log_scale(axes.yaxis)
    axes.figure.canvas.draw()
    shown = [label.get_text() for label in axes.get_yticklabels()]
    assert {"50", "100", "200", "500"} <= set(shown)


def test_names_that_are_no_text_or_begin_a_formula_are_drawn() -> None:
    figure = new_figure(4, 3)
    axis = figure.subplots()
    axis.set_yticks([0, 1], [_short(name) for name in ("b\udcff", "$x_$")])
    assert as_png(figure).startswith(b"\x89PNG")
