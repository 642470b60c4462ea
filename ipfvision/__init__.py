"""ipfvision: how much does a chest CT slice look like idiopathic pulmonary fibrosis, and where does that come from."""

__version__ = "0.1.0"
