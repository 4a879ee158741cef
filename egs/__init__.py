"""Recipes and the stages that walk them."""
