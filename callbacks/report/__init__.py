"""The report of a run: one HTML page from what is on the disk."""
