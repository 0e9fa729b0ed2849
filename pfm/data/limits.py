"""What a file of data may ask for where nothing else is said: it may be anybody's, and memory is not endless."""

MOST_PIXELS = 89_478_485  # of an image; Pillow's own limit, a quarter of a GiB in RGB
LARGE_BYTES = 256 << 20  # an array that unpacks to no more is not looked at for how much it was packed
MOST_EXPANSION = 100  # times the size of what is stored that a larger one may have
