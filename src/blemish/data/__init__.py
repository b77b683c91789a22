"""Data sets on disk: which images, which labels, which masks; and generated ones."""
