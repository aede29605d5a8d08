"""What is learnt from the features of regions: classifiers and box regression."""
