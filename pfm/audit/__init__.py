"""Forgetting put to the test: attacks, the models they are compared with, and a verdict that can fail.

- `comparisons/`: the models beside the one that is judged, trained once and kept;
- `models`: what every attack may ask of them;
- `attacks/`: one file an attack, each with its figures, its judgement and its section of the page;
- `protocol` runs them all, `verdict` sums up, `page` shows; `scrubbing` forgets until an attack finds nothing.

The mathematics stands apart as functions of tensors: `figures`, `thresholds`, `lira`, `rmia`, `closed_form`.
"""
