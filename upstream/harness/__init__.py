"""HArnESS as an S3PRL upstream folder: `hubconf.py` holds the names, `expert.py` the module."""
