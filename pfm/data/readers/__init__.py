"""Where data comes from: one reader a source, in the order in which they are asked."""
