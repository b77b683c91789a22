"""The station: one process that scores what it is sent, and keeps a record of it that can be asked."""
