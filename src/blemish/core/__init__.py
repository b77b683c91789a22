"""What every room shares: errors, the words for samples and predictions, the one durable writer."""
