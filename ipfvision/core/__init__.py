"""NumPy and OpenCV only: pure functions, and frozen types that are valid from birth."""
