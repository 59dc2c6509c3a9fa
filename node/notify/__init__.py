"""Hooks: webhooks, commands and plugins that receive each event at least once, after its commit."""
