"""Many machines: jobs and predictions on a Ray cluster."""
