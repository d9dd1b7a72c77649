"""Errors that a user can cause and can mend."""


class ConfigError(Exception):
    """A setting or a file is wrong; the message is one line that names it and the remedy."""


class TrainingError(ConfigError):
    """Training cannot go on, for example after a loss that is not a number."""
