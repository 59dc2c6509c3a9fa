"""What is lost, damaged, deleted, restored or kept."""
