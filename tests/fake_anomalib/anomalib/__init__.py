"""A stand-in for anomalib: what `blemish.peer` calls, and answers that a test can work out."""
