"""Options in, one call, text out: one file a command."""
