"""kick: measures what compression does to a language model."""

__version__ = "0.1.0"
