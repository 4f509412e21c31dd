"""The front door: the command line, settings read once, and the demo that composes everything."""

__version__ = "0.1.0"
