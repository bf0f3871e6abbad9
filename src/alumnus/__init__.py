"""alumnus: distil many vision models into one universal encoder."""

__version__ = "0.1.0"
