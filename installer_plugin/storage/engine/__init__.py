"""How images are copied: which engine takes which image, and the engines."""
