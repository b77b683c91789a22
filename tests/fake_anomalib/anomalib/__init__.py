"""A stand-in for anomalib: what `blemish.evaluation.anomalib` calls, and answers that a test can work out."""
