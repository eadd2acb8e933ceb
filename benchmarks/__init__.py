"""What pipecap costs beside a named peer: `python -m pytest benchmarks`. Ratios, never times by themselves."""
