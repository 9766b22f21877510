"""Errors and files."""
