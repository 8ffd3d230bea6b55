"""`distill`: teacher–student distillation for image classifiers."""

__version__ = "0.8.0"
