"""Where images come from: local stores, layouts and archives, other hosts; and how they are named."""
