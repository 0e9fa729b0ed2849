"""The prompted classifier: bank, adapters, readouts, targets, and what is saved of it."""
