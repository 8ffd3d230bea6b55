"""What objectives learn or remember beside the student: modules that the trainer owns."""
