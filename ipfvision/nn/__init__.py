"""Everything that touches torch: the network, its input, its answer, its explanation, its training."""
