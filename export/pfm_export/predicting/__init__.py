"""Many files through a model: which files, decoded ahead in a pool, answered in batches, written as rows."""
