"""The embedded default: a small world, the models that were trained on it, and the command that trains them again."""
