"""A pretrained encoder in stages, task heads on top, and the folder they are kept in."""
