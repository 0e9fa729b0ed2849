"""Exact forgetting: a readout solved from integer sums over the samples, out of which anything can be taken again.

A feature vector becomes integers, a fixed projection of entries -1, 0 and 1 makes integers of it, and the head is
solved from each class's sums of their products. Sums of integers are the same in any order, so that the sums without a
class, a group or a sample are those of a fit that never saw it. The mathematics stands here, as functions of arrays;
serving needs it too, so that most of it knows no torch.
"""
