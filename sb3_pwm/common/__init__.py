"""Building blocks that every other part of the package may use: layers and running statistics."""
