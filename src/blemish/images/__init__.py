"""From image files to the arrays that models see, and from maps to pictures."""
