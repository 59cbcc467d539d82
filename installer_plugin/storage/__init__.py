"""containers-storage and the other places that hold images: formats, locks, tools."""
