"""One layer, bit for bit: its tar stream, its tree, copying and proof."""
