"""What a recipe names, opened and checked: data, teachers, the student, classes."""
