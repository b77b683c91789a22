"""Pages and charts that people read."""
