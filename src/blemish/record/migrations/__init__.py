"""The versions of the database and the steps between them."""
