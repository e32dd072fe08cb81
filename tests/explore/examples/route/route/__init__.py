"""Ways through a graph."""
