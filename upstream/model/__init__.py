"""The encoder: geometry, front end, model directory, inference, export."""
