"""Fine-tuning: of fc6 and fc7 on cached maps (``head.py``), or of all through the pooling."""
