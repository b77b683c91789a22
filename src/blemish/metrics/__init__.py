"""Exact measures on raw scores, with their confidence intervals."""
