"""Who is told what happened, after the commit: webhooks, commands and plugins."""
