"""Building blocks for every other part of the package. No module in here imports another part."""
