"""The version, read by the build (pyproject.toml) and by the report."""

VERSION = "0.1.0"
