"""What every stage stands on: configuration, tables, session, tracking, errors, progress."""
