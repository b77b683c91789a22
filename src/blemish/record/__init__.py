"""What is kept of every inspection: rows, tables, databases, archived images."""
