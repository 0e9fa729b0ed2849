"""Latency and throughput, measured in interleaved rounds, raw samples kept."""
