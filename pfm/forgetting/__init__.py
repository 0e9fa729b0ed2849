"""Suspend, erase, and the records of it: ledger and certificate. The records need no torch."""
