"""Hooks: programs of the administrator and the vendor that run between our own stages."""
