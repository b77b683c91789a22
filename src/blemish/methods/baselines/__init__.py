"""The methods to compare with: those of the papers' tables, and other published ones.

They are trained from scratch, or stand on pre-trained features that the user brings.
"""
