"""Fine-tuning: of fc6 and fc7 on maps that are kept, or of everything through the pooling."""
