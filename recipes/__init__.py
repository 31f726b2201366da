"""Recipes: run configurations beside the library (installed as `vlp_recipes`, so that an installed copy finds them)."""
