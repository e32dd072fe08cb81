"""The sandbox: one port, two backends (Docker, bubblewrap), the same root filesystem, network none, always."""
