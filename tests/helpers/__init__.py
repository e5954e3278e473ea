"""What several test files share: small logs and tables, the settings that read them, and slow reference answers."""
