"""From data and a configuration to checkpoints: objective, step, batches, optimizer, saving, the run."""
