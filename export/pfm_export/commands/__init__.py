"""The commands that know bundles: options in, one call, text out."""
