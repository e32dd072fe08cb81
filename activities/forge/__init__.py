"""Git: sources in, signed commits out, each delivered exactly once (contracts §18)."""
