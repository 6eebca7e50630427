"""AIWM: one door to every model, with untouched bytes and books that are right."""

__version__ = "0.1.0"
