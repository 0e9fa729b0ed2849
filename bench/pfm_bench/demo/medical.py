"""The demo on MedNIST: six kinds of medical images, from a file that the user has."""

import dataclasses
from pathlib import Path

from pfm.data.config import DataConfig
from pfm_bench.demo.images import ImagesTask
from pfm_bench.demo.task import RECIPE

CLASSES = "AbdomenCT,BreastMRI,CXR,ChestCT,Hand,HeadCT"
MEDICAL_RECIPE = dataclasses.replace(RECIPE, epochs=3, batch_size=32, lr=1e-3, weight_decay=0.01, warmup=0.3)


def medical_task(path: Path, forget: str = "Hand") -> ImagesTask:
    """The images without one kind of them, by a recipe that takes a minute.

    Args:
        path: an `.npz` in MedMNIST's layout.
    """
    return ImagesTask(
        command="python bench/answers.py --data mednist --path PATH/mednist_64.npz",
        data=DataConfig(dataset=str(path), class_names=CLASSES),
        model_name="scratch:vit_mini",
        forgotten=forget,
        recipes={"cls": MEDICAL_RECIPE, "prompt": MEDICAL_RECIPE},
        colors="gray",
    )
