"""The one inference path: a model file, the backend that runs its network, and the detector around it."""
