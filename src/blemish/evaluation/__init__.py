"""Measuring models on labelled images: one model, several side by side, whole tables."""
