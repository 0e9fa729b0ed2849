"""Resize and normalisation as nodes in front of a graph, so that images go in as they are.

The nodes stay float32 whatever the precision of the graph behind them. ONNX `Resize` with
antialiasing is the resampling of training: half-pixel centres, weights normalised at the border
(`exclude_outside`, for bilinear too), and for bicubic the coefficient -0.5.

Letters: B batch, H and W pixels of an image, S pixels of the model's side.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from pfm_export.graph.front_ends.base import FrontEnd, ParityInput, batch_axis, put_nodes_in_front, replace_input
from pfm_export.serving.kinds.images import ImageInput

_MODES: dict[str, dict[str, Any]] = {
    "bilinear": {"mode": "linear"},
    "bicubic": {"mode": "cubic", "cubic_coeff_a": -0.5},
}


class ImageFrontEnd(FrontEnd[ImageInput]):
    """Nodes from `images` (B, H, W, 3) uint8 to model input (B, 3, S, S) float32."""

    # two implementations of one antialiased resize differ by 1e-4 of a grey level, which the graph passes on
    tolerance = 1e-4

    def put_in_front(self, proto: onnx.ModelProto, model_input: str) -> None:
        (images,), settings = self.kind.inputs, self.kind.settings
        axes = [batch_axis(proto, model_input), *self.kind.axes]
        replace_input(proto, model_input, [helper.make_tensor_value_info(images, TensorProto.UINT8, axes)])
        constants: dict[str, npt.NDArray[Any]] = {
            "images_sizes": np.array([settings.size, settings.size], dtype=np.int64),
            "images_mean": np.array(settings.mean, dtype=np.float32).reshape(1, 3, 1, 1) * np.float32(255),
            "images_std": np.array(settings.std, dtype=np.float32).reshape(1, 3, 1, 1) * np.float32(255),
        }
        proto.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
        put_nodes_in_front(
            proto,
            [
                helper.make_node("Transpose", [images], ["images_planes"], name="images_transpose", perm=[0, 3, 1, 2]),
                helper.make_node("Cast", ["images_planes"], ["images_float"], name="images_cast", to=TensorProto.FLOAT),
                helper.make_node(
                    "Resize",
                    ["images_float", "", "", "images_sizes"],
                    ["images_resized"],
                    name="images_resize",
                    axes=[2, 3],
                    antialias=1,
                    exclude_outside=1,
                    coordinate_transformation_mode="half_pixel",
                    **_MODES[settings.resample],
                ),
                helper.make_node("Sub", ["images_resized", "images_mean"], ["images_centred"], name="images_centre"),
                helper.make_node("Div", ["images_centred", "images_std"], [model_input], name="images_scale"),
            ],
        )

    def parity_inputs(self, batch_size: int, generator: torch.Generator) -> list[ParityInput]:
        """Images of the model's own size, larger ones, and ones that are narrower and wider."""
        size = self.kind.settings.size
        found: list[ParityInput] = []
        for height, width in ((size, size), (2 * size + 3, size + 5), (size // 2 + 1, 3 * size)):
            images = torch.randint(0, 256, (batch_size, 3, height, width), generator=generator, dtype=torch.uint8)
            found.append(ParityInput(f"{width}x{height} uint8", _as_taken(images), self.preprocess(images)))
        return found

    def windows(self, stored: torch.Tensor) -> list[tuple[npt.NDArray[Any], torch.Tensor | None]]:
        return [(_as_taken(stored.expand(-1, 3, -1, -1)), None)]


def _as_taken(images: torch.Tensor) -> npt.NDArray[Any]:
    """(B, 3, H, W) -> (B, H, W, 3)"""
    return images.permute(0, 2, 3, 1).contiguous().numpy()
