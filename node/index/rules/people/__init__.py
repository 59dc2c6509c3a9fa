"""Who is meant: patients, accounts, projects."""
