"""The stages, one module each; none imports another. The recipe's steps call them."""
