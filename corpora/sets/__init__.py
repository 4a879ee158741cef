"""The data that recipes assemble: self-supervised mix, open_arabic, mini."""
