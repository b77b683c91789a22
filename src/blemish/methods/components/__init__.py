"""What several methods share: blurs, encoders, a batch over several processes."""
