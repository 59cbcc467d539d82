"""The booted system itself: what it has proven of its own disk."""
