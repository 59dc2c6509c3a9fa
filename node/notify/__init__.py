"""Tells others what happened, after the commit and never before: webhooks, commands, Python plugins."""
