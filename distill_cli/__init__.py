"""`distill`: teacher–student distillation for image classifiers."""

__version__ = "0.9.0"
