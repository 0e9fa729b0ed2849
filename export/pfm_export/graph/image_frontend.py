"""Resize and normalisation as nodes in front of a graph, so that images go in as they are.

The nodes stay float32 whatever the precision of the graph behind them. ONNX `Resize` with
antialiasing is the resampling of training: half-pixel centres, weights normalised at the border
(`exclude_outside`, for bilinear too), and for bicubic the coefficient -0.5.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pfm.data.images import ImagePreprocess
from pfm_export.serving.form import INPUT_IMAGES, INPUT_PIXELS


def take_images(proto: onnx.ModelProto, preprocess: ImagePreprocess) -> None:
    """Replace the input `pixel_values` (B, 3, S, S) float32 by `images` (B, H, W, 3) uint8, in place."""
    graph = proto.graph
    old = next(entry for entry in graph.input if entry.name == INPUT_PIXELS)
    batch = old.type.tensor_type.shape.dim[0].dim_param
    graph.value_info.append(old)  # from now on it is computed
    new = helper.make_tensor_value_info(INPUT_IMAGES, TensorProto.UINT8, [batch, "height", "width", 3])
    kept = [new if entry.name == INPUT_PIXELS else entry for entry in graph.input]
    del graph.input[:]
    graph.input.extend(kept)

    constants = {
        "images_sizes": np.array([preprocess.size, preprocess.size], dtype=np.int64),
        "images_mean": np.array(preprocess.mean, dtype=np.float32).reshape(1, 3, 1, 1) * np.float32(255),
        "images_std": np.array(preprocess.std, dtype=np.float32).reshape(1, 3, 1, 1) * np.float32(255),
    }
    graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
    modes = {"bilinear": {"mode": "linear"}, "bicubic": {"mode": "cubic", "cubic_coeff_a": -0.5}}
    nodes = [
        helper.make_node("Transpose", [INPUT_IMAGES], ["images_planes"], name="images_transpose", perm=[0, 3, 1, 2]),
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
            **modes[preprocess.resample],
        ),
        helper.make_node("Sub", ["images_resized", "images_mean"], ["images_centred"], name="images_centre"),
        helper.make_node("Div", ["images_centred", "images_std"], [INPUT_PIXELS], name="images_scale"),
    ]
    behind = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *behind])
