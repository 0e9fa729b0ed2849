"""The models that a forgotten one is compared with, and the data that each of them is given."""
