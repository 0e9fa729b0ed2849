"""The clock: timed rounds, memory, ceilings, and the figures derived from raw samples."""
