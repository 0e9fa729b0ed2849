"""The numbers of windows of samples, which training and service share; knows no torch."""

# added to the variance of a clip that is normalised, as the field's processors do
VARIANCE_FLOOR = 1e-7
