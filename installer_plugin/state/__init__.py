"""Our stages one at a time, for runners that are not ours; a directory holds what they know."""
