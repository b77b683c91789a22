"""One file per command: what it is asked, what it says. `cli` finds them by name."""
