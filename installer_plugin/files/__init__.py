"""Files, with what a power cut and a hostile tree can do to them."""
