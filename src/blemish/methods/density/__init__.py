"""Densities of features that are not trained: what good images never showed at a place is anomalous."""
