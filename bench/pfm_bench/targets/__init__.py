"""What can be timed, and what it is made of."""
