"""Data, teachers, student and classes that a recipe names: opened and checked."""
