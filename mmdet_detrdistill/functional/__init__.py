"""The method as pure functions on tensors: one module per loss, and what they share.

Needs torch, NumPy and SciPy only (Numba is optional), and imports without the OpenMMLab packages:
`from mmdet_detrdistill.functional.logits_kd import logits_kd`.
"""
