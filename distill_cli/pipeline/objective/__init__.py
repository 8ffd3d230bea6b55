"""From `objective:` in a recipe to a composition that fits these networks and classes."""
