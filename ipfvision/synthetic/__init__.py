"""Drawn disease, drawn thoraxes: for training, samples and tests. NumPy and OpenCV only; nothing here comes from a patient."""
