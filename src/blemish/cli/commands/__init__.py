"""One file for each command: its options, what it does with them, and what it says."""
