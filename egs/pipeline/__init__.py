"""Read a recipe and run its stages."""
