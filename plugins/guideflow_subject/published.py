"""The published networks that `subject` uses by default."""

NETWORK = "facebook/dinov2-base"
"""The features that are compared."""

DETECTOR = "google/owlvit-base-patch32"
"""What finds the subjects."""
