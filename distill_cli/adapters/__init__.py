"""Adapters: modules that objectives learn or remember in beside the student; the trainer owns them."""
