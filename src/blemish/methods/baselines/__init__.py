"""The comparison systems of the papers' tables, and PCA: one file each, trained from scratch."""
