"""Recipes, and the pipeline that runs them."""
