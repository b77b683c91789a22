"""Inspecting what cameras write into a folder, and telling others of rejects."""
