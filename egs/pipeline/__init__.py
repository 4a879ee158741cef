"""The stages that run.sh runs on a recipe."""
