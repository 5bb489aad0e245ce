"""Modules that a long paper needs beside its own file."""
