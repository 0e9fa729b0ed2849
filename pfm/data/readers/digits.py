"""`digits`: scikit-learn's own 1,797 images of 8 x 8 pixels, for which nothing is downloaded."""

from typing import Any, ClassVar

import numpy as np
import torch

from pfm.data.config import DataConfig
from pfm.data.images import ImageStorage, from_arrays
from pfm.data.inputs import Storage
from pfm.data.reading import Intake
from pfm.data.splits import ClassificationData, Split, class_list, split_off_test


class DigitsReader:
    """The digits."""

    source_options: ClassVar[tuple[str, ...]] = ()

    def takes(self, config: DataConfig) -> bool:
        return config.dataset == "digits"

    def check_there(self, config: DataConfig) -> None:
        config.check_kind(ImageStorage.kind)
        class_list(config, [str(digit) for digit in range(10)])

    def read(self, config: DataConfig, storage: Storage, intake: Intake) -> ClassificationData:
        self.check_there(config)
        from sklearn.datasets import load_digits

        digits: Any = load_digits()
        images = np.round(digits.images * (255 / 16)).astype(np.uint8)
        labels = torch.from_numpy(digits.target.astype(np.int64))
        rows = tuple(str(row) for row in range(len(labels)))
        whole = Split(from_arrays(images, "digits"), labels, names=rows)
        train, test, note = split_off_test(whole, "digits")
        names = [str(name) for name in digits.target_names]
        return ClassificationData("digits", class_list(config, names), train, test, notes=(note,))
