"""Pre-forgettable models: classifiers whose classes can be removed at run time."""

__version__ = "0.1.0"
