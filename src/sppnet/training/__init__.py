"""What classification and detection share when they train."""
