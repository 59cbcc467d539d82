"""The steps of the recipe, one module each; none imports another."""
