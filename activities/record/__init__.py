"""Ground floor: what the fabric remembers. Home folder, blobs, git objects, store, event chain, trajectories. A library."""
