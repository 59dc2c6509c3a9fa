"""Hooks: webhooks, commands and plugins that hear of events after their commit, at least once."""
