"""From a folder of good images to a model file: the one training loop and what surrounds it."""
