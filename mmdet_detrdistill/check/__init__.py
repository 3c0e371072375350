"""Read a distillation config, check both detectors and one training step."""
