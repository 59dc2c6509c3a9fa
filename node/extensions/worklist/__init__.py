"""Scheduled and performed procedure steps: worklist entries from every source, and what modalities report of them."""
