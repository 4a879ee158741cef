"""The page that runs a recogniser in a browser: its packages, its assembly for one head, and its server."""
