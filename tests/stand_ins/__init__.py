"""Detectors of our own that depart as RT-DETR and Co-DETR do: same interface, other layers."""
