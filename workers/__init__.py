"""Where it runs: settings, wiring, registration and process entry points."""
